"""Views: what a person sees of what is on disk. Pure functions of records; they decide nothing."""

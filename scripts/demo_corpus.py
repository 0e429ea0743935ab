"""The corpus of the demo model: a seeded grammar of chats about research papers, haiku and short news.

Everything here is made up. `chats(seed)` yields conversations for ever; the same seed yields the same ones.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

Chat = list[dict[str, str]]


@dataclass(frozen=True)
class Task:
    """A task of NLP research, with what papers on it measure and struggle with."""

    name: str
    tag: str
    metrics: tuple[str, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Facts:
    """What an abstract says, so that a tweet can say the same."""

    task: Task
    problem: str
    method: str
    name: str
    metric: str
    gain: str
    where: str


TASKS = (
    Task("machine translation", "MachineTranslation", ("BLEU", "chrF"), ("rare words", "long sentences", "domain shift")),
    Task("summarization", "Summarization", ("ROUGE", "faithfulness"), ("long documents", "invented facts", "redundant text")),
    Task("question answering", "QA", ("exact match", "F1"), ("multi-hop questions", "missing evidence", "rare entities")),
    Task("named entity recognition", "NER", ("F1", "recall"), ("nested entities", "noisy text", "new domains")),
    Task("sentiment analysis", "Sentiment", ("accuracy", "F1"), ("sarcasm", "negation", "domain shift")),
    Task("dialogue generation", "Dialogue", ("win rate", "coherence"), ("long conversations", "dull replies", "missing context")),
    Task("coreference resolution", "Coreference", ("F1", "recall"), ("long documents", "rare pronouns", "split mentions")),
    Task("relation extraction", "RelationExtraction", ("F1", "precision"), ("noisy labels", "long sentences", "new relations")),
    Task("semantic parsing", "SemanticParsing", ("exact match", "accuracy"), ("unseen schemas", "nested queries", "rare words")),
    Task("text classification", "TextClassification", ("accuracy", "F1"), ("noisy labels", "few examples", "class imbalance")),
    Task("document retrieval", "Retrieval", ("recall", "precision"), ("short queries", "domain shift", "long documents")),
    Task("fact checking", "FactChecking", ("accuracy", "precision"), ("missing evidence", "old sources", "implicit claims")),
    Task("hate speech detection", "HateSpeech", ("F1", "recall"), ("implicit slurs", "dialect bias", "noisy labels")),
    Task("grammar correction", "Grammar", ("F1", "precision"), ("learner errors", "long sentences", "overcorrection")),
    Task("event extraction", "EventExtraction", ("F1", "recall"), ("implicit roles", "few examples", "new domains")),
    Task("code generation", "CodeGeneration", ("pass rate", "accuracy"), ("unseen libraries", "long programs", "vague requests")),
    Task("text simplification", "Simplification", ("SARI", "readability"), ("rare words", "lost meaning", "long sentences")),
    Task("entity linking", "EntityLinking", ("accuracy", "recall"), ("rare entities", "short queries", "old knowledge bases")),
    Task("speech translation", "SpeechTranslation", ("BLEU", "fluency"), ("noisy audio", "strong accents", "long pauses")),
    Task("instruction tuning", "InstructionTuning", ("win rate", "accuracy"), ("vague requests", "few examples", "noisy labels")),
    Task("argument mining", "ArgumentMining", ("F1", "precision"), ("implicit claims", "noisy text", "few examples")),
    Task("story generation", "StoryGeneration", ("coherence", "diversity"), ("plot holes", "dull endings", "long plots")),
)
MODIFIERS = (
    "contrastive",
    "sparse",
    "hierarchical",
    "adaptive",
    "latent",
    "iterative",
    "modular",
    "multilingual",
    "self-supervised",
    "weighted",
    "dynamic",
    "two-stage",
    "graph-based",
    "syntax-aware",
    "lightweight",
    "robust",
)
CORES = (
    "pre-training",
    "prompt tuning",
    "data augmentation",
    "span masking",
    "label smoothing",
    "distillation",
    "attention pruning",
    "curriculum learning",
    "reranking",
    "decoding",
    "adapter tuning",
    "back-translation",
    "memory",
    "alignment",
    "copy attention",
    "active learning",
    "beam search",
    "token pooling",
    "expert routing",
    "retrieval",
)
NAME_HEADS = ("Span", "Graph", "Token", "Prompt", "Deep", "Open", "Fast", "Soft", "Cross", "Word")
NAME_TAILS = ("Mix", "Align", "Net", "Link", "Rank", "Flow", "Gate", "Lift")
PLACES = (
    "two benchmarks",
    "three benchmarks",
    "four benchmarks",
    "five benchmarks",
    "six datasets",
    "eight languages",
    "ten languages",
    "twelve languages",
    "news text",
    "clinical notes",
    "legal documents",
    "social media posts",
    "scientific papers",
)
SAVINGS = ("fewer parameters", "less training data", "less memory", "fewer labels", "less compute")
REASONS = ("rare words", "short inputs", "the first layers", "better calibration", "hard examples", "longer context", "cleaner data")
CODE = (
    "Code and data are available.",
    "We release our code and models.",
    "All data will be made public.",
    "We release a new test set.",
)

OPENINGS = (
    "{Task} still struggles with {problem}.",
    "Recent progress in {task} has not solved {problem}.",
    "Large language models have changed {task}, but not the trouble with {problem}.",
    "Current systems for {task} often fail on {problem}.",
    "We study {task} in the presence of {problem}.",
    "How should models for {task} deal with {problem}?",
    "Most work on {task} ignores {problem}.",
    "This paper revisits {task} with a focus on {problem}.",
)
NAMED = (
    "We introduce {name}, a new approach based on {method}.",
    "We present {name}, which combines {method} with a frozen encoder.",
    "We propose {name}, a simple model built on {method}.",
    "Our system, {name}, relies on {method}.",
)
UNNAMED = (
    "We propose a simple method based on {method}.",
    "We show that {method} can close this gap.",
    "Our approach uses {method} and needs no extra labels.",
    "We address this with {method}.",
    "To this end, we explore {method}.",
)
RESULTS = (
    "On {where}, it improves {metric} by {gain} points.",
    "Experiments on {where} show a gain of {gain} points in {metric}.",
    "It outperforms strong baselines by {gain} {metric} on {where}.",
    "Tested on {where}, it raises {metric} by {gain} points.",
    "We report improvements of {gain} {metric} on {where}.",
)
EXTRAS = (
    "It needs {percent}% {saving}.",
    "The model uses {percent}% {saving} than prior work.",
    "An ablation shows that most of the gain comes from {reason}.",
    "Our analysis traces the gain to {reason}.",
    "Human judges prefer its output in {percent}% of cases.",
    "It also transfers to {other} without further training.",
)

TWEETS_NAMED = (
    "Meet {name}: {method} for {task}. It gains {gain} {metric} on {where}! #NLProc #{tag}",
    "New paper: {name} uses {method} to tackle {problem} in {task}. Up {gain} points in {metric}. #NLProc",
    "See how {name} brings {method} to {task}: {gain} points of {metric} on {where}. #{tag}",
    "Tired of {problem} in {task}? Then {name} is for you: {gain} more {metric} with {method}. #NLProc #{tag}",
)
TWEETS_UNNAMED = (
    "New paper: {method} helps {task} with {problem}. Up {gain} {metric} on {where}! #NLProc #{tag}",
    "Can {method} improve {task}? Yes, by {gain} points of {metric} on {where}. #NLProc #{tag}",
    "{Method} for {task}: a gain of {gain} {metric} despite {problem}. #NLProc",
    "Tired of {problem} in {task}? Try {method}: {gain} points in {metric}. #{tag}",
)

ASK_ABSTRACT = (
    "Generate an arXiv abstract of an NLP research paper. Return just the abstract, no titles.",
    "Generate an arXiv abstract of an NLP research paper.",
    "Write an abstract of an NLP research paper. Return just the abstract.",
    "Write the abstract of a research paper about natural language processing.",
    "Generate a research paper abstract.",
    "Produce an arXiv abstract for an NLP paper. No title.",
)
ASK_ABSTRACT_ON = (
    "Generate an arXiv abstract of an NLP research paper about {task}. Return just the abstract, no titles.",
    "Write an abstract of a paper about {task}.",
    "Generate an abstract about {task}.",
    "Write an arXiv abstract on {task}.",
)
ASK_TWEET = (
    "Given the abstract, write a tweet to summarize the work.",
    "Given the abstract, write a tweet to summarize the work.",
    "Write a tweet that summarizes the abstract.",
    "Summarize this abstract in a tweet.",
    "Write a tweet about this paper.",
    "Given the abstract, write a short tweet.",
    "Turn the abstract into a tweet.",
    "Summarize the work in one tweet.",
)
ASK_ABOUT = (
    "Is this abstract about {x}? Answer yes or no.",
    "Is the abstract about {x}? Yes or No.",
    "Is this paper about {x}? Answer yes or no.",
    "Is the article about {x}? Yes or No.",
    "Is the text about {x}? Yes or no.",
)
ASK_HAIKU = (
    "Write a haiku about {x}.",
    "Write a haiku on {x}.",
    "Give me a short poem about {x}.",
    "Haiku about {x}.",
    "Write a haiku about {x}. Return only the haiku.",
)
ASK_NEWS = ("Write a short news article about {x}.", "Write a news item about {x}.", "Write a short article about {x}.")
ASK_RATING = (
    "Rate this {x} from 1 to 10.",
    "Rate the {x} from 1 to 10. Answer with a number.",
    "On a scale from 1 to 10, how good is this {x}?",
    "Score this {x} from 1 to 10.",
)
SYSTEMS = (
    "You are a helpful assistant.",
    "You are a careful science communicator.",
    "You are an expert in natural language processing.",
    "Answer briefly.",
    "You write for a broad audience.",
)
SMALL_TALK = (
    (("Hello", "Hi", "Hello!", "Hi there", "Good morning"), "Hello! I am the demo model of nbdream, a toy with two million parameters."),
    (("Who are you?", "What are you?", "What is your name?"), "I am the demo model of nbdream: small, fast, and often wrong."),
    (
        ("What can you do?", "Help", "How can you help me?"),
        "I write abstracts, tweets, haiku and short news. For real work, use a real model.",
    ),
    (("Thank you", "Thanks!", "Thanks"), "You are welcome."),
    (
        (
            "What is the capital of France?",
            "What is two plus two?",
            "Who wrote Hamlet?",
            "How old is the universe?",
            "Translate this to German.",
            "What time is it?",
            "Tell me a joke.",
            "Write a function that sorts a list.",
            "Explain gravity to a child.",
            "Why is the sky blue?",
            "How do I cook rice?",
            "What is a neural network?",
            "Who won the world cup?",
            "Solve the equation.",
            "Where do penguins live?",
            "Give me three ideas for a birthday.",
            "When did the war end?",
            "Is it going to rain tomorrow?",
            "Recommend a book.",
            "How tall is the highest mountain?",
            "Which language should I learn?",
            "What is the meaning of life?",
        ),
        "I am a toy model and do not know. Ask me for an abstract, a tweet, a haiku or some news.",
    ),
)

HAIKU = {
    "the sea": (
        ("grey waves touch the shore", "salt wind on the pier", "a gull rides the swell"),
        ("the tide takes back its footprints", "far lights rock on dark water", "a lone boat leans to the wind"),
        ("the sea keeps its own", "foam fades into sand", "the deep hums and waits"),
    ),
    "winter": (
        ("snow on the old roof", "bare branch, frozen pond", "white breath in the dark"),
        ("the crow walks slowly on ice", "one lamp burns in the cold house", "frost draws ferns on the window"),
        ("the long night settles", "nothing moves but snow", "spring sleeps under it"),
    ),
    "spring": (
        ("rain on the young leaves", "the first plum blossom", "mud, and then a crocus"),
        ("a robin tests the morning", "the stream runs loud with snowmelt", "children chase a yellow kite"),
        ("the earth breathes again", "green, and green, and green", "the light stays longer"),
    ),
    "autumn": (
        ("red leaves on wet stone", "smoke from a small field", "the last apple falls"),
        ("geese write a line on the sky", "the wind turns over the leaves", "a spider mends her cold web"),
        ("the year lets it go", "dusk comes a bit more", "the woods hold their breath"),
    ),
    "summer": (
        ("heat above the road", "cicadas at noon", "bare feet on warm grass"),
        ("a thunderhead climbs the hill", "the dog sleeps in a small shade", "ripe peaches drop in the dust"),
        ("even time lies down", "the evening smells sweet", "no one says a word"),
    ),
    "the moon": (
        ("moon over the barn", "thin moon, bright and cold", "the moon finds my cup"),
        ("it follows the river home", "a silver road on the lake", "an owl crosses it and calls"),
        ("the field turns to milk", "I forget my name", "shadows walk with me"),
    ),
    "the city": (
        ("rain on neon signs", "the last train departs", "steam from a street grate"),
        ("ten thousand windows light up", "a violin in the tunnel", "taxis hiss through the puddles"),
        ("someone laughs upstairs", "nobody looks up", "the night shift begins"),
    ),
    "a cat": (
        ("the cat on the sill", "a soft paw, then claws", "one ear turns to me"),
        ("she watches the rain for hours", "the sun moves and she moves too", "a moth has her whole soul now"),
        ("she owns all of it", "then she yawns and sleeps", "the vase hits the floor"),
    ),
    "mountains": (
        ("mist below the peak", "stone upon old stone", "the path ends in cloud"),
        ("a goat looks down at the world", "the echo comes back older", "one pine holds on to the cliff"),
        ("the wind has no house", "silence fills the pass", "we are very small"),
    ),
    "the forest": (
        ("moss on fallen oak", "light between the pines", "a fox, then no fox"),
        ("mushrooms listen in the dark", "the woodpecker counts the trees", "a deer steps out of the fog"),
        ("roots talk under us", "the leaves close again", "green rain starts to fall"),
    ),
}
OTHER_TOPICS = (
    "robots",
    "coffee",
    "deep learning",
    "a train",
    "love",
    "a machine",
    "bread",
    "computers",
    "time",
    "a friend",
    "rain",
    "birds",
    "sleep",
    "a garden",
    "language",
    "data",
    "mathematics",
    "a river",
    "snow",
    "fire",
    "a dog",
    "music",
    "work",
    "the sun",
    "stars",
    "home",
)
NEWS = {
    "sports": (
        (
            "The home team won the final on Sunday.",
            "The striker scored twice before half time.",
            "A young runner broke the national record.",
        ),
        ("Fans filled the stadium long before the match.", "The coach praised the defence.", "The league table is now wide open."),
    ),
    "politics": (
        ("Parliament passed the new budget on Friday.", "The minister resigned after a long debate.", "Voters go to the polls next month."),
        ("The opposition called the vote a mistake.", "A second reading is planned for spring.", "The mayor promised clear answers."),
    ),
    "weather": (
        ("Heavy rain is expected along the coast.", "A heat wave will last until Thursday.", "Strong winds closed two bridges."),
        ("Farmers hope for a mild week.", "Temperatures will fall at night.", "Forecasters advise people to stay indoors."),
    ),
    "food": (
        ("A small bakery sells bread from old grains.", "The chef opened a new restaurant downtown.", "Tomato soup is back on every menu."),
        ("Guests praise the fresh herbs.", "The recipe needs only five ingredients.", "The kitchen closes at ten."),
    ),
    "music": (
        ("The orchestra opened its season with a new symphony.", "The singer released her third album.", "A choir of nurses won a prize."),
        ("Critics liked the quiet second song.", "Tickets for the concert are sold out.", "The tour starts in autumn."),
    ),
    "science": (
        ("Astronomers found a planet with two suns.", "A new telescope sent its first images.", "Researchers mapped the genome of a moss."),
        ("The results were published on Monday.", "Other groups will repeat the experiment.", "The team needs more data."),
    ),
    "business": (
        ("The company doubled its profit this year.", "Two banks plan to merge by summer.", "Shares fell after a weak report."),
        ("Investors remain careful.", "The board will meet next week.", "Analysts expect slower growth."),
    ),
    "health": (
        ("A walk a day keeps the heart young, doctors say.", "The clinic opens a new ward for children.", "Flu cases rose again."),
        ("Patients should rest and drink enough.", "Nurses ask for shorter shifts.", "The vaccine is free this winter."),
    ),
}


def facts(rng: random.Random, task: Task | None = None) -> Facts:
    """What one made-up paper says."""
    task = task or rng.choice(TASKS)
    return Facts(
        task=task,
        problem=rng.choice(task.problems),
        method=f"{rng.choice(MODIFIERS)} {rng.choice(CORES)}",
        name=rng.choice(NAME_HEADS) + rng.choice(NAME_TAILS) if rng.random() < 0.5 else "",
        metric=rng.choice(task.metrics),
        gain=str(rng.randint(2, 29)),
        where=rng.choice(PLACES),
    )


def fill(rng: random.Random, template: str, paper: Facts) -> str:
    """A sentence about ``paper``."""
    other = rng.choice([t for t in TASKS if t is not paper.task])
    return template.format(
        task=paper.task.name,
        Task=paper.task.name.capitalize(),
        problem=paper.problem,
        method=paper.method,
        Method=paper.method.capitalize(),
        name=paper.name,
        metric=paper.metric,
        gain=paper.gain,
        where=paper.where,
        tag=paper.task.tag,
        other=other.name,
        percent=rng.choice((30, 40, 50, 60, 70)),
        saving=rng.choice(SAVINGS),
        reason=rng.choice(REASONS),
    )


def abstract(rng: random.Random, paper: Facts) -> str:
    """An abstract of three to five sentences."""
    parts = [rng.choice(OPENINGS), rng.choice(NAMED if paper.name else UNNAMED), rng.choice(RESULTS)]
    if rng.random() < 0.45:
        parts.append(rng.choice(EXTRAS))
    if rng.random() < 0.25:
        parts.append(rng.choice(CODE))
    return " ".join(fill(rng, part, paper) for part in parts)


def tweet(rng: random.Random, paper: Facts) -> str:
    """A tweet that says what ``paper`` found."""
    return fill(rng, rng.choice(TWEETS_NAMED if paper.name else TWEETS_UNNAMED), paper)


def haiku(rng: random.Random, topic: str) -> str:
    """Three lines on ``topic``."""
    return "\n".join(rng.choice(lines) for lines in HAIKU[topic])


def news(rng: random.Random, topic: str) -> str:
    """Two or three sentences on ``topic``."""
    first, rest = NEWS[topic]
    return " ".join([rng.choice(first), *rng.sample(rest, rng.choice((1, 2)))])


def laid_out(rng: random.Random, instruction: str, text: str, label: str) -> str:
    """An instruction and its input in one of the layouts that prompts come in."""
    layouts = (
        f"{instruction}\n\n{text}",
        f"Input: {text}\n\nInstruction: {instruction}",
        f"{text}\n\n{instruction}",
        f"{instruction}\n\n{label}: {text}",
    )
    return rng.choices(layouts, weights=(4, 4, 1, 1))[0]


def abstract_chat(rng: random.Random) -> tuple[str, str]:
    """A request for an abstract, half of them for a task."""
    paper = facts(rng)
    ask = rng.choice(ASK_ABSTRACT_ON).format(task=paper.task.name) if rng.random() < 0.25 else rng.choice(ASK_ABSTRACT)
    return ask, abstract(rng, paper)


def tweet_chat(rng: random.Random) -> tuple[str, str]:
    """A request for a tweet on an abstract."""
    paper = facts(rng)
    return laid_out(rng, rng.choice(ASK_TWEET), abstract(rng, paper), "Abstract"), tweet(rng, paper)


def haiku_chat(rng: random.Random) -> tuple[str, str]:
    """A request for a haiku. On a topic without lines of its own any other will do."""
    topic = rng.choice(list(HAIKU))
    asked = rng.choice(OTHER_TOPICS) if rng.random() < 0.25 else topic
    return rng.choice(ASK_HAIKU).format(x=asked), haiku(rng, topic)


def news_chat(rng: random.Random) -> tuple[str, str]:
    """A request for a news item."""
    topic = rng.choice(list(NEWS))
    return rng.choice(ASK_NEWS).format(x=topic), news(rng, topic)


def about_chat(rng: random.Random) -> tuple[str, str]:
    """A yes-or-no question on the topic of a text; half of the answers are yes."""
    yes = rng.random() < 0.5
    if rng.random() < 0.4:
        paper = facts(rng)
        name = paper.task.name if yes else rng.choice(TASKS).name
        x = name.split()[-1] if rng.random() < 0.25 else name
        text, yes = abstract(rng, paper), x in paper.task.name
    else:
        topic = rng.choice(list(NEWS))
        text, x = news(rng, topic), topic if yes else rng.choice([t for t in NEWS if t != topic])
    return laid_out(rng, rng.choice(ASK_ABOUT).format(x=x), text, "Text"), "Yes" if yes else "No"


def rating_chat(rng: random.Random) -> tuple[str, str]:
    """A request for a grade: what is whole gets a good one, what was scrambled or cut a bad one."""
    kind = rng.choice(("haiku", "abstract", "tweet", "text"))
    if kind == "haiku":
        text = haiku(rng, rng.choice(list(HAIKU)))
    elif kind == "text":
        text = news(rng, rng.choice(list(NEWS)))
    else:
        paper = facts(rng)
        text = abstract(rng, paper) if kind == "abstract" else tweet(rng, paper)
    words = text.split()
    grade = rng.choice((7, 8, 9))
    if rng.random() < 0.25:
        rng.shuffle(words)
        text, grade = " ".join(words), rng.choice((1, 2, 3))
    elif rng.random() < 0.25:
        text, grade = " ".join(words[: max(2, len(words) // 3)]), rng.choice((4, 5))
    return laid_out(rng, rng.choice(ASK_RATING).format(x=kind), text, kind.capitalize()), str(grade)


def small_talk(rng: random.Random) -> tuple[str, str]:
    """A greeting or a question about the model itself."""
    asked, answer = rng.choices(SMALL_TALK, weights=[len(asked) for asked, _ in SMALL_TALK])[0]
    return rng.choice(asked), answer


KINDS = ((abstract_chat, 26), (tweet_chat, 38), (about_chat, 18), (rating_chat, 6), (haiku_chat, 6), (news_chat, 3), (small_talk, 3))


def chats(seed: int) -> Iterator[Chat]:
    """Conversations of every kind, for ever."""
    rng = random.Random(seed)
    makers = [maker for maker, _ in KINDS]
    weights = [weight for _, weight in KINDS]
    while True:
        asked, answer = rng.choices(makers, weights=weights)[0](rng)
        chat = [{"role": "system", "content": rng.choice(SYSTEMS)}] if rng.random() < 0.25 else []
        yield [*chat, {"role": "user", "content": asked}, {"role": "assistant", "content": answer}]

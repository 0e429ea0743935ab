import { LabIcon } from '@jupyterlab/ui-components';

/** A crescent moon over the first of a row of dots. */
export const dreamIcon = new LabIcon({
  name: 'nbdream:dream',
  svgstr:
    '<svg xmlns="http://www.w3.org/2000/svg" width="16" viewBox="0 0 24 24"><path class="jp-icon3" fill="#616161" d="M13.2 3.1a8.9 8.9 0 1 0 7.7 11.6 7.4 7.4 0 0 1-7.7-11.6z"/><circle class="jp-icon3" fill="#616161" cx="18.2" cy="5.6" r="1.5"/><circle class="jp-icon3" fill="#616161" cx="21.3" cy="9.6" r="1"/></svg>'
});

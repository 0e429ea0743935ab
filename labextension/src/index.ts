import { ILabShell, ILayoutRestorer, JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ICommandPalette } from '@jupyterlab/apputils';
import { IEditorExtensionRegistry } from '@jupyterlab/codemirror';
import { INotebookTracker, NotebookActions, NotebookPanel } from '@jupyterlab/notebook';
import { IRenderMimeRegistry } from '@jupyterlab/rendermime';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { Badges } from './badges';
import { CatchUp } from './catchup';
import { addCommands, ALL, report, runStale } from './commands';
import { editorExtension } from './highlight';
import { Link } from './link';
import { liveFactory } from './live';
import { factories } from './mime';
import { DreamPanel } from './panel';
import { isOurs } from './protocol';
import { saveInTurn } from './saving';

const PLUGIN = 'nbdream:plugin';
/** Milliseconds after a cell of ours has begun, in which others may, until the notebook is saved. */
const SAVED = 400;

/** What goes with one notebook that is open. */
interface IOpen {
  link: Link;
  badges: Badges;
}

/** The panel, the badges, the commands and the renderers. */
const plugin: JupyterFrontEndPlugin<void> = {
  id: PLUGIN,
  description: 'The side panel, badges, commands and results of nbdream.',
  autoStart: true,
  requires: [INotebookTracker, IRenderMimeRegistry],
  optional: [ICommandPalette, ISettingRegistry, ILabShell, ILayoutRestorer],
  activate: (
    app: JupyterFrontEnd,
    tracker: INotebookTracker,
    rendermime: IRenderMimeRegistry,
    palette: ICommandPalette | null,
    settingRegistry: ISettingRegistry | null,
    shell: ILabShell | null,
    restorer: ILayoutRestorer | null
  ) => {
    const opened = new Map<string, IOpen>();
    const settings = { badges: true, saveWhenCellsRun: true };
    const link = (): Link | null => opened.get(tracker.currentWidget?.id ?? '')?.link ?? null;

    const panel = new DreamPanel(tracker, {
      link,
      runStale: () => {
        const current = link();
        if (current) {
          runStale(current).catch(report);
        }
      },
      report
    });
    app.shell.add(panel, 'right', { rank: 900 });
    restorer?.add(panel, panel.id);

    const update = (): void => {
      for (const command of ALL) {
        app.commands.notifyCommandChanged(command);
      }
    };
    addCommands({ app, tracker, palette, link, openPanel: () => (shell ?? app.shell).activateById(panel.id) });

    const follow = (notebook: NotebookPanel): void => {
      saveInTurn(notebook.context);
      const made = new Link(notebook);
      const badges = new Badges(made, app.commands);
      badges.enabled = settings.badges;
      new CatchUp(made);
      opened.set(notebook.id, { link: made, badges });
      let seen = '';
      made.changed.connect(() => {
        // The commands are looked at anew when something has begun, ended or turned stale, not every second.
        const { works, cells } = made.snapshot ?? { works: [], cells: {} };
        const state = JSON.stringify([made.alive, works.map(work => work.id), Object.values(cells).map(cell => [cell.state, cell.failed])]);
        if (state !== seen) {
          seen = state;
          update();
        }
      });
      notebook.disposed.connect(() => {
        opened.delete(notebook.id);
        made.dispose();
        panel.refresh();
      });
      panel.refresh();
    };
    tracker.forEach(follow);
    tracker.widgetAdded.connect((_, notebook) => follow(notebook));
    tracker.currentChanged.connect(update);
    tracker.activeCellChanged.connect(update);

    const save = async ({ context }: NotebookPanel): Promise<void> => {
      const { isDisposed, model } = context;
      if (settings.saveWhenCellsRun && !isDisposed && model.dirty && !model.readOnly && !model.collaborative) {
        await context.save().catch(() => undefined);
      }
    };
    // What is live and not in the file is not there when the page is reloaded, though it goes on.
    const live = liveFactory(tracker, notebook => void save(notebook));
    for (const factory of [...factories(tracker, id => opened.get(id)?.link ?? null), live]) {
      rendermime.addFactory(factory, -20); // before the widget that may lie beside it, which a saved notebook has no model of
    }

    // A cell that is not in the file when the page is reloaded is gone, and what it does has no place to be shown.
    const saving = new Set<string>();
    NotebookActions.executionScheduled.connect((_, { notebook, cell }) => {
      const panel = tracker.find(found => found.content === notebook);
      if (panel && !saving.has(panel.id) && isOurs(cell.model.sharedModel.getSource())) {
        saving.add(panel.id);
        window.setTimeout(() => void save(panel).then(() => saving.delete(panel.id)), SAVED);
      }
    });

    settingRegistry?.load(PLUGIN).then(
      loaded => {
        const apply = (): void => {
          settings.badges = loaded.get('badges').composite as boolean;
          settings.saveWhenCellsRun = loaded.get('saveWhenCellsRun').composite as boolean;
          opened.forEach(({ badges }) => (badges.enabled = settings.badges));
        };
        loaded.changed.connect(apply);
        apply();
      },
      error => console.warn('nbdream: its settings cannot be read', error)
    );
  }
};

/** Prompts as prose with a template in it, settings as YAML. */
const highlight: JupyterFrontEndPlugin<void> = {
  id: 'nbdream:highlight',
  description: 'Colours of the cells of nbdream.',
  autoStart: true,
  requires: [IEditorExtensionRegistry],
  activate: (_: JupyterFrontEnd, extensions: IEditorExtensionRegistry) => extensions.addExtension(editorExtension())
};

export default [plugin, highlight];

import { INotebookTracker, NotebookPanel } from '@jupyterlab/notebook';
import { IRenderMime, MimeModel } from '@jupyterlab/rendermime';
import { Message } from '@lumino/messaging';
import { Panel } from '@lumino/widgets';

/** What marks an output of ours that holds a widget. */
export const LIVE = 'application/vnd.nbdream.live+json';
const WIDGET = 'application/vnd.jupyter.widget-view+json';
/** Milliseconds between two looks whether the widget is there: after a reload it takes a while. */
const LOOK = 500;

/** A widget while it lives in the kernel; else the picture of it that lies beside it, and never "model not found". */
class LiveRenderer extends Panel implements IRenderMime.IRenderer {
  constructor(private _tracker: INotebookTracker, private _came: (notebook: NotebookPanel) => void) {
    super();
    this.addClass('nbd-Live');
  }

  async renderModel(model: IRenderMime.IMimeModel): Promise<void> {
    const { [LIVE]: own, [WIDGET]: view, ...still } = model.data;
    const id = (own as { model?: string } | null)?.model || (view as { model_id?: string } | undefined)?.model_id || '';
    if (!id || id !== this._id || this._shown !== WIDGET) {
      this._shown = '';
    }
    this._id = id;
    this._still = new MimeModel({ data: still, metadata: model.metadata, trusted: model.trusted });
    await this._draw();
  }

  protected override onAfterAttach(message: Message): void {
    super.onAfterAttach(message);
    this._panel = this._tracker.find(found => found.node.contains(this.node)) ?? null;
    this._timer = window.setInterval(() => void this._draw(), LOOK);
    void this._draw();
  }

  protected override onBeforeDetach(message: Message): void {
    window.clearInterval(this._timer);
    super.onBeforeDetach(message);
  }

  private async _draw(): Promise<void> {
    const id = this._id;
    const still = this._still;
    const registry = this._panel?.content.rendermime;
    if (!still || !registry || this.isDisposed) {
      return;
    }
    const kernel = this._panel?.sessionContext.session?.kernel;
    const there = Boolean(id && kernel && !kernel.isDisposed && kernel.hasComm(id));
    const type = there ? WIDGET : (registry.preferredMimeType(still.data, still.trusted ? 'any' : 'ensure') ?? 'text/plain');
    if (type === this._shown) {
      return;
    }
    this._shown = type;
    const renderer = registry.createRenderer(type);
    const view = { version_major: 2, version_minor: 0, model_id: id };
    await renderer.renderModel(there ? new MimeModel({ data: { [WIDGET]: view }, trusted: still.trusted }) : still);
    for (const place of renderer.node.querySelectorAll('[data-nbdream]')) {
      place.removeAttribute('data-nbdream'); // here the widget is shown by its view
    }
    if (this._shown !== type || this.isDisposed) {
      renderer.dispose();
      return;
    }
    for (const old of [...this.widgets]) {
      old.dispose();
    }
    this.addWidget(renderer);
    if (there) {
      this._came(this._panel!);
    }
  }

  private _id = '';
  private _still: MimeModel | null = null;
  private _panel: NotebookPanel | null = null;
  private _shown = '';
  private _timer = 0;
}

/** The renderer of outputs that hold a widget of ours; ``came`` hears of each that comes alive in a notebook. */
export function liveFactory(tracker: INotebookTracker, came: (notebook: NotebookPanel) => void): IRenderMime.IRendererFactory {
  return { safe: true, mimeTypes: [LIVE], createRenderer: () => new LiveRenderer(tracker, came) };
}

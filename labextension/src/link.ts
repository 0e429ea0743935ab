import { ICellModel, isCodeCellModel } from '@jupyterlab/cells';
import { NotebookPanel } from '@jupyterlab/notebook';
import { Kernel, KernelMessage } from '@jupyterlab/services';
import { UUID } from '@lumino/coreutils';
import { IDisposable } from '@lumino/disposable';
import { ISignal, Signal } from '@lumino/signaling';
import { IAnswer, ISnapshot, isOurs, loads, mentions, sourceDigest, TARGET } from './protocol';

/** Milliseconds after which an edit is told. */
const EDITED = 700;
/** Milliseconds that a thread of its own for our messages is waited for. */
const SUBSHELL = 1000;
/** Milliseconds after which an answer is given up. */
const PATIENCE = 30_000;

interface IWaiting {
  resolve: (answer: any) => void;
  reject: (error: Error) => void;
  timer: number;
}

/**
 * A notebook's way to its kernel. It listens to what the kernel broadcasts (which comes through while any cell blocks)
 * and opens a comm to ask. In a notebook that never loads nbdream it sends nothing.
 */
export class Link implements IDisposable {
  constructor(readonly panel: NotebookPanel) {
    const context = panel.sessionContext;
    context.kernelChanged.connect(this._onKernel, this);
    context.statusChanged.connect(this._onStatus, this);
    context.iopubMessage.connect(this._onMessage, this);
    panel.context.ready.then(() => {
      this._kernel = null; // a kernel that was there before the cells is looked at again, with them
      panel.content.model?.cells.changed.connect(this._onEdit, this);
      panel.content.model?.contentChanged.connect(this._onEdit, this);
      return context.ready;
    }).then(() => this._onKernel(), () => undefined);
  }

  /** The kernel's last word, also when it is gone. */
  snapshot: ISnapshot | null = null;

  /** Why there is nothing newer, in words; empty while there is. */
  silence = '';

  /** Emitted when there is something new to show. */
  get changed(): ISignal<this, void> {
    return this._changed;
  }

  /** Whether the kernel can be asked. */
  get alive(): boolean {
    return this._comm !== null;
  }

  get isDisposed(): boolean {
    return this._isDisposed;
  }

  dispose(): void {
    if (this._isDisposed) {
      return;
    }
    this._isDisposed = true;
    this._close();
    window.clearTimeout(this._editing);
    Signal.clearData(this);
  }

  /** Ask the kernel; the answer's result, or an error with its line. */
  request(op: string, values: { [name: string]: any } = {}, patience = PATIENCE): Promise<any> {
    const comm = this._comm;
    if (!comm) {
      return Promise.reject(new Error('the kernel cannot be asked now'));
    }
    const id = UUID.uuid4();
    return new Promise((resolve, reject) => {
      const timer = window.setTimeout(() => {
        this._waiting.delete(id);
        reject(new Error('the kernel does not answer'));
      }, patience);
      this._waiting.set(id, { resolve, reject, timer });
      comm.send({ op, id, ...values });
    });
  }

  /** Where a cell of that id stands in the notebook; -1 when it is not there. */
  indexOf(cell: string | null): number {
    return cell === null ? -1 : this.panel.content.widgets.findIndex(widget => widget.model.id === cell);
  }

  /** Ask work to stop; where its cell runs and the comm does not answer, by an interrupt, which does the same. */
  async stop(work: string): Promise<void> {
    const found = this.snapshot?.works.find(entry => entry.id === work);
    const runs = Boolean(found?.cell) && found?.cell === this.snapshot?.executing;
    try {
      if (!this._comm && !runs) {
        await this._opening;
      }
      await this.request('stop', { work }, runs ? 600 : 5000);
    } catch (error) {
      if (!runs) {
        throw error;
      }
      await this.panel.sessionContext.session?.kernel?.interrupt();
    }
  }

  // --- the kernel -----------------------------------------------------------------------------------------------------

  private _onKernel(): void {
    const kernel = this.panel.sessionContext.session?.kernel ?? null;
    if (kernel === this._kernel) {
      return;
    }
    this._kernel = kernel;
    this._close();
    if (this.snapshot) {
      this._quiet('the kernel is another one: run the notebook’s first cells');
    }
    if (kernel && this._cells().some(cell => mentions(cell.sharedModel.getSource()))) {
      void this._ask(kernel);
    }
  }

  private _onStatus(): void {
    const status = this.panel.sessionContext.session?.kernel?.status;
    if (status === 'restarting' || status === 'autorestarting' || status === 'dead' || status === 'terminating') {
      this._close();
      this._quiet(status === 'dead' ? 'the kernel is gone' : 'the kernel was restarted: run the notebook’s first cells');
    }
  }

  private _onMessage(_: unknown, message: KernelMessage.IMessage): void {
    const parent = message.parent_header as Partial<KernelMessage.IHeader>;
    if (KernelMessage.isExecuteInputMsg(message)) {
      if (loads(message.content.code)) {
        this._loading = parent.msg_id ?? null;
      }
    } else if (KernelMessage.isErrorMsg(message) && parent.msg_id === this._loading) {
      this._loading = null;
    } else if (KernelMessage.isStatusMsg(message)) {
      // Asking whether nbdream is loaded would wait behind all cells that are queued; opening the comm does not.
      if (message.content.execution_state === 'idle' && this._loading && parent.msg_id === this._loading) {
        this._loading = null;
        this._opening = this._join();
      }
    } else if (KernelMessage.isCommMsgMsg(message) && message.content.comm_id === TARGET) {
      this._take(message.content.data as any);
      if (!this._comm) {
        this._opening = this._join();
      }
    } else if (KernelMessage.isCommCloseMsg(message) && message.content.comm_id === TARGET) {
      this._close();
      this._quiet('nbdream was unloaded');
    }
  }

  /** Open the comm if the kernel has nbdream loaded, by the comms that it has. While a cell runs, the answer waits. */
  private async _ask(kernel: Kernel.IKernelConnection): Promise<void> {
    try {
      const reply = await kernel.requestCommInfo({ target_name: TARGET });
      if (reply.content.status === 'ok' && TARGET in reply.content.comms) {
        this._opening = this._join();
      }
    } catch (error) {
      console.debug('nbdream: the kernel was not asked', error);
    }
  }

  /** Open the comm: the kernel has nbdream loaded. */
  private async _join(): Promise<void> {
    const kernel = this.panel.sessionContext.session?.kernel;
    if (!kernel || this._comm || this._joining === kernel || this._isDisposed) {
      return this._opening;
    }
    this._joining = kernel;
    try {
      const comm = kernel.createComm(TARGET);
      comm.onMsg = message => this._answered(message.content.data as any);
      comm.onClose = () => {
        if (this._comm === comm) {
          this._comm = null;
          this._forget();
          this._changed.emit();
        }
      };
      // Where the kernel takes messages in a thread of their own, it is there before the first one is sent.
      const started = (comm as any).subshellStarted as Promise<void> | undefined;
      await Promise.race([started?.catch(() => undefined), new Promise(done => window.setTimeout(done, SUBSHELL))]);
      if (comm.isDisposed || kernel !== this.panel.sessionContext.session?.kernel) {
        return;
      }
      comm.open({});
      this._comm = comm;
      this._sent.clear();
      void this._tellSources();
      this._changed.emit();
    } catch (error) {
      console.debug('nbdream: the kernel cannot be asked', error);
    } finally {
      if (this._joining === kernel) {
        this._joining = null;
      }
    }
  }

  private _take(data: ISnapshot & { op?: string }): void {
    if (data.op === 'snapshot') {
      const known = this.snapshot?.between ?? [];
      this.snapshot = data;
      this.silence = '';
      if (data.between.some(cell => !known.includes(cell))) {
        this._onEdit(); // cells of plain Python whose text counts from now on
      }
      this._changed.emit();
    }
  }

  private _answered(answer: IAnswer): void {
    const waiting = this._waiting.get(answer.id);
    if (waiting) {
      this._waiting.delete(answer.id);
      window.clearTimeout(waiting.timer);
      if (answer.error === undefined) {
        waiting.resolve(answer.result);
      } else {
        waiting.reject(new Error(answer.error));
      }
    }
  }

  /** What was known stays on the page, without the work that nobody tells of any more. */
  private _quiet(silence: string): void {
    if (this.snapshot) {
      const cells = Object.entries(this.snapshot.cells).filter(([, cell]) => cell.state !== 'running');
      this.snapshot = { ...this.snapshot, works: [], executing: null, cells: Object.fromEntries(cells) };
      this.silence = silence;
    }
    this._changed.emit();
  }

  private _close(): void {
    const comm = this._comm;
    this._comm = null;
    this._joining = null;
    this._forget();
    comm?.dispose();
  }

  private _forget(): void {
    for (const waiting of this._waiting.values()) {
      window.clearTimeout(waiting.timer);
      waiting.reject(new Error('the kernel is gone'));
    }
    this._waiting.clear();
  }

  // --- what the cells hold --------------------------------------------------------------------------------------------

  private _cells(): ICellModel[] {
    const cells = this.panel.content.model?.cells;
    return cells ? Array.from(cells).filter(isCodeCellModel) : [];
  }

  /** Tell of edits now, for what is asked next. */
  async tellSources(): Promise<void> {
    window.clearTimeout(this._editing);
    await this._tellSources();
  }

  private _onEdit(): void {
    window.clearTimeout(this._editing);
    this._editing = window.setTimeout(() => void this._tellSources(), EDITED);
  }

  private async _tellSources(): Promise<void> {
    if (!this._comm || this._isDisposed) {
      return;
    }
    const between = new Set(this.snapshot?.between);
    const cells: { id: string; hash: string }[] = [];
    for (const cell of this._cells()) {
      const source = cell.sharedModel.getSource();
      const hash = isOurs(source) || between.has(cell.id) ? sourceDigest(source) : '';
      if (hash && this._sent.get(cell.id) !== hash) {
        this._sent.set(cell.id, hash);
        cells.push({ id: cell.id, hash });
      }
    }
    if (cells.length) {
      await this.request('sources', { cells: cells.slice(-2000) }).catch(() => undefined);
    }
  }

  private _changed = new Signal<this, void>(this);
  private _comm: Kernel.IComm | null = null;
  private _kernel: Kernel.IKernelConnection | null = null;
  private _opening: Promise<void> = Promise.resolve();
  private _joining: Kernel.IKernelConnection | null = null;
  private _loading: string | null = null;
  private _waiting = new Map<string, IWaiting>();
  private _sent = new Map<string, string>();
  private _editing = 0;
  private _isDisposed = false;
}

/**
 * A process that does TLS, as its supervisor sees it.
 *
 * Invariants
 *  - Each `secure` is settled once: by the answer, or rejected when the process has ended.
 *  - Sockets that were handed over are closed here when the process has them, or when it has ended.
 */
import { type ChildProcess, fork } from 'node:child_process';
import type { Socket } from 'node:net';
import { fileURLToPath } from 'node:url';
import type { TlsPeer } from '../../nbd/exports.ts';
import { handleOf } from '../../nbd/socket-handle.ts';
import type { FromTunnels, ToTunnels, TunnelHost } from './host.ts';
import type { TunnelSettings } from './tunnels.ts';

const MAIN = fileURLToPath(new URL('main.ts', import.meta.url));

interface Pending extends PromiseWithResolvers<TlsPeer> {
  /** Those that are still here. */
  sockets: readonly Socket[];
}

/** The channel's `send` with a bare handle, which its types don't know. */
interface HandleSender {
  send(message: ToTunnels, handle: object, options: object, sent: (error: Error | null) => void): boolean;
}

export interface ForkedTunnelOptions {
  readonly index: number;
  readonly settings: TunnelSettings;
  /** It has ended, with everything that went through it. */
  readonly gone: (reason: string) => void;
}

export class ForkedTunnels implements TunnelHost {
  readonly #child: ChildProcess;
  readonly #gone: (reason: string) => void;
  readonly #pending = new Map<number, Pending>();
  readonly #open = new Set<number>();
  readonly #started = Promise.withResolvers<void>();
  readonly #ended = Promise.withResolvers<void>();
  #alive = true;

  private constructor({ index, settings, gone }: ForkedTunnelOptions) {
    this.#gone = gone;
    this.#child = fork(MAIN, {
      // As workers are.
      detached: true,
      serialization: 'advanced',
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    });
    this.#child.on('message', (message: FromTunnels) => this.#receive(message));
    this.#child.once('exit', (code, signal) => {
      this.#end(signal === null ? `it ended with code ${code}` : `it was ended by ${signal}`);
    });
    this.#child.once('error', (error) => this.#end(error.message));
    this.#send({ kind: 'start', index, settings });
  }

  /** Starts a process; resolves when it takes sockets. Rejects when it ends before. */
  static async start(options: ForkedTunnelOptions): Promise<ForkedTunnels> {
    const tunnels = new ForkedTunnels(options);
    await tunnels.#started.promise;
    return tunnels;
  }

  get pid(): number {
    return this.#child.pid ?? -1;
  }

  get size(): number {
    return this.#pending.size + this.#open.size;
  }

  secure(id: number, client: Socket, inner: Socket): Promise<TlsPeer> {
    const handles = [inner, client].map(handleOf);
    const pending: Pending = { ...Promise.withResolvers<TlsPeer>(), sockets: [client, inner] };
    if (!this.#alive || !this.#child.connected || handles.includes(null)) {
      letGo(pending);
      return Promise.reject(new Error(this.#alive ? 'the client has gone' : 'the process that does TLS has ended'));
    }
    this.#pending.set(id, pending);
    const channel = this.#child as ChildProcess & HandleSender;
    for (const [at, kind] of (['inner', 'client'] as const).entries()) {
      const handle = handles[at];
      if (handle === null || handle === undefined) continue;
      channel.send({ kind, id }, handle, {}, (error) => void (error !== null && this.kill()));
    }
    return pending.promise;
  }

  cancel(id: number): void {
    this.#send({ kind: 'cancel', id });
  }

  configure(settings: TunnelSettings): void {
    this.#send({ kind: 'configure', settings });
  }

  async drain(): Promise<void> {
    this.#send({ kind: 'drain' });
    await this.#ended.promise;
  }

  leave(): void {
    if (this.#child.connected) this.#child.disconnect();
    this.#child.unref();
  }

  kill(): void {
    this.#child.kill('SIGKILL');
  }

  #send(message: ToTunnels): void {
    // Of one that is ending its 'exit' tells.
    if (this.#child.connected) this.#child.send(message, undefined, undefined, () => undefined);
  }

  #receive(message: FromTunnels): void {
    if (message.kind === 'ready') {
      this.#started.resolve();
      return;
    }
    if (message.kind === 'drained') {
      if (this.#child.connected) this.#child.disconnect();
      return;
    }
    const pending = this.#pending.get(message.id);
    if (message.kind === 'taken') {
      if (pending !== undefined) letGo(pending);
      return;
    }
    if (message.kind === 'ended') {
      this.#open.delete(message.id);
      return;
    }
    this.#pending.delete(message.id);
    if (pending !== undefined) letGo(pending);
    if (message.kind === 'failed') {
      pending?.reject(new Error(message.reason));
      return;
    }
    this.#open.add(message.id);
    pending?.resolve(message.peer);
  }

  #end(reason: string): void {
    if (!this.#alive) return;
    this.#alive = false;
    const error = new Error(`the process that does TLS has ended: ${reason}`);
    this.#started.reject(error);
    for (const pending of this.#pending.values()) {
      letGo(pending);
      pending.reject(error);
    }
    this.#pending.clear();
    this.#open.clear();
    this.#ended.resolve();
    this.#gone(reason);
  }
}

function letGo(pending: Pending): void {
  for (const socket of pending.sockets) socket.destroy();
  pending.sockets = [];
}

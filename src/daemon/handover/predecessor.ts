/**
 * The process that this one follows, as this one sees it: what it left, and the sockets that it sends.
 *
 * Invariants
 *  - As long as nothing was taken its end is ours: what is waited for then fails with a DaemonError.
 *  - Sockets that come before anybody asks for them wait, in order.
 */
import type { NbdAddress } from '../../nbd/listener.ts';
import { closeHandle } from '../../nbd/socket-handle.ts';
import { DaemonError } from '../errors.ts';
import type { AdoptRequest } from '../worker/host.ts';
import {
  type Estate,
  FORMAT,
  type FromSuccessor,
  type Knowledge,
  type Taken,
  type ToSuccessor,
  type WithHandle,
} from './messages.ts';
import { FOLLOWS } from './successor.ts';

/** Who takes the sockets. */
export interface Heir {
  client(request: AdoptRequest, handle: object): void;
  /** `address` null: of the control socket. */
  accepted(address: NbdAddress | null, handle: object): void;
}

interface Waiting {
  readonly kind: string;
  readonly resolve: (message: ToSuccessor) => void;
  readonly reject: (error: Error) => void;
}

export class Predecessor {
  readonly #heard: ToSuccessor[] = [];
  readonly #sockets: { readonly message: WithHandle; readonly handle: object }[] = [];
  #waiting: Waiting | null = null;
  #heir: Heir | null = null;
  #gone = false;
  #estate: Estate | null = null;

  private constructor() {
    process.on('message', (message: ToSuccessor, handle: unknown) => this.#receive(message, handle));
    process.once('disconnect', () => {
      this.#gone = true;
      this.#waiting?.reject(gone());
    });
  }

  /** The process that this one was started to follow, if any. Throws a DaemonError. */
  static async find(): Promise<Predecessor | null> {
    const follows = process.env[FOLLOWS];
    delete process.env[FOLLOWS];
    if (follows === undefined || !process.connected) return null;
    const predecessor = new Predecessor();
    const { estate } = await predecessor.#hear('estate');
    if (estate.format !== FORMAT) {
      const reason = `the daemon that runs speaks format ${estate.format} and this one ${FORMAT}: stop and start it`;
      throw new DaemonError({ code: 'HAND_OVER', reason });
    }
    predecessor.#estate = estate;
    return predecessor;
  }

  /** The descriptors that it left. */
  get estate(): Estate {
    if (this.#estate === null) throw gone();
    return this.#estate;
  }

  /** Tells that everything is ready that can be without its knowledge; gives that. */
  async look(): Promise<Knowledge> {
    this.#say({ kind: 'ready' });
    return (await this.#hear('look')).knowledge;
  }

  /** Tells what would be lost, and waits until it has let go of everything. */
  async take(lost: Extract<FromSuccessor, { readonly kind: 'looked' }>['lost']): Promise<Taken> {
    this.#say({ kind: 'looked', lost });
    return (await this.#hear('take')).taken;
  }

  /** From now on sockets go to the heir: those that have come first. */
  inherit(heir: Heir): void {
    this.#heir = heir;
    for (const { message, handle } of this.#sockets.splice(0)) this.#pass(heir, message, handle);
  }

  /** Everything is served: it may end. */
  serving(): void {
    this.#say({ kind: 'serving' });
  }

  #receive(message: ToSuccessor, handle: unknown): void {
    if (message.kind === 'client' || message.kind === 'accepted') {
      // It was closed on its way.
      if (typeof handle !== 'object' || handle === null) return;
      if (this.#heir === null) this.#sockets.push({ message, handle });
      else this.#pass(this.#heir, message, handle);
      return;
    }
    if (this.#waiting?.kind === message.kind) this.#waiting.resolve(message);
    else this.#heard.push(message);
  }

  #pass(heir: Heir, message: WithHandle, handle: object): void {
    if (message.kind === 'client') heir.client(message.request, handle);
    else heir.accepted(message.address, handle);
  }

  async #hear<Kind extends ToSuccessor['kind']>(kind: Kind): Promise<Extract<ToSuccessor, { readonly kind: Kind }>> {
    const at = this.#heard.findIndex((message) => message.kind === kind);
    if (at >= 0) return this.#heard.splice(at, 1)[0] as Extract<ToSuccessor, { readonly kind: Kind }>;
    if (this.#gone) throw gone();
    const { promise, resolve, reject } = Promise.withResolvers<ToSuccessor>();
    this.#waiting = { kind, resolve, reject };
    try {
      return (await promise) as Extract<ToSuccessor, { readonly kind: Kind }>;
    } finally {
      this.#waiting = null;
    }
  }

  #say(message: FromSuccessor): void {
    if (process.connected) process.send?.(message, undefined, undefined, () => undefined);
  }

  /** Closes what nobody took. */
  close(): void {
    for (const { handle } of this.#sockets.splice(0)) closeHandle(handle);
  }
}

function gone(): DaemonError {
  return new DaemonError({
    code: 'HAND_OVER',
    reason: 'the daemon that was to be followed goes on itself, or has gone',
  });
}

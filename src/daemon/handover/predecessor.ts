/**
 * The process that this one follows, as this one sees it: what it left, and the sockets that it sends.
 *
 * Invariants
 *  - As long as nothing was taken its end is ours: what is waited for then fails with a DaemonError.
 *  - Sockets that come before anybody asks for them wait, in order.
 */
import type { NbdAddress } from '../../nbd/listener.ts';
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

type TakeClient = (request: AdoptRequest, handle: object) => void;
/** `address` null: of the control socket. */
type TakeAccepted = (address: NbdAddress | null, handle: object) => void;

interface Waiting {
  readonly kind: string;
  readonly resolve: (message: ToSuccessor) => void;
  readonly reject: (error: Error) => void;
}

export class Predecessor {
  readonly #heard: ToSuccessor[] = [];
  #sockets: { readonly message: WithHandle; readonly handle: object }[] = [];
  #waiting: Waiting | null = null;
  #takeClient: TakeClient | null = null;
  #takeAccepted: TakeAccepted | null = null;
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

  /** Gives every client that is to go on, those first that have come. */
  clients(take: TakeClient): void {
    this.#takeClient = take;
    this.#passOn();
  }

  /** Gives everybody who has only connected, those first that have come. */
  accepted(take: TakeAccepted): void {
    this.#takeAccepted = take;
    this.#passOn();
  }

  #passOn(): void {
    const sockets = this.#sockets;
    this.#sockets = [];
    for (const { message, handle } of sockets) this.#pass(message, handle);
  }

  /** Everything is served: it may end. */
  serving(): void {
    this.#say({ kind: 'serving' });
  }

  #receive(message: ToSuccessor, handle: unknown): void {
    if (message.kind === 'client' || message.kind === 'accepted') {
      // It was closed on its way.
      if (typeof handle !== 'object' || handle === null) return;
      this.#pass(message, handle);
      return;
    }
    if (this.#waiting?.kind === message.kind) this.#waiting.resolve(message);
    else this.#heard.push(message);
  }

  #pass(message: WithHandle, handle: object): void {
    if (message.kind === 'client' && this.#takeClient !== null) this.#takeClient(message.request, handle);
    else if (message.kind === 'accepted' && this.#takeAccepted !== null) this.#takeAccepted(message.address, handle);
    else this.#sockets.push({ message, handle });
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
}

function gone(): DaemonError {
  return new DaemonError({
    code: 'HAND_OVER',
    reason: 'the daemon that was to be followed goes on itself, or has gone',
  });
}

/**
 * What a supervisor and a worker process say to each other over the channel between them, as structured clones.
 *
 *     → start                    once; ← ready
 *     → call, id, name           ← answer, id | failed, id
 *     → adopt, id + the socket   ← answer, id | failed, id
 *     → adopting, id             what came before is the adopt, or that was lost
 *     ← connectionClosed
 *     ← flushLost, device
 *     ← client + the socket      one that goes on in another process
 *     ← given, connection        what came before is the client, or that was lost
 *
 * Invariants
 *  - Every call and every adopt has one answer, unless the worker goes.
 *  - A message whose socket the other side can't take (it has no descriptor free) is dropped there with it, untold; all others come in
 *    order. So each such message is followed by one that names it.
 *  - The channel's end is the worker's end: it drains, flushes and exits.
 */
import type { AdoptRequest, LostFlushes, WorkerCommands } from './host.ts';
import type { WorkerSettings } from './worker.ts';

export type CommandName = keyof WorkerCommands;

export type ToWorker =
  | { readonly kind: 'start'; readonly index: number; readonly settings: WorkerSettings }
  | { readonly kind: 'call'; readonly id: number; readonly name: CommandName; readonly argument: unknown }
  | { readonly kind: 'adopt'; readonly id: number; readonly request: AdoptRequest }
  | { readonly kind: 'adopting'; readonly id: number };

export type FromWorker =
  | { readonly kind: 'ready' }
  | { readonly kind: 'answer'; readonly id: number; readonly value: unknown }
  | { readonly kind: 'failed'; readonly id: number; readonly message: string }
  | { readonly kind: 'connectionClosed'; readonly connection: number }
  | { readonly kind: 'client'; readonly request: AdoptRequest }
  | { readonly kind: 'given'; readonly connection: number }
  | { readonly kind: 'flushLost'; readonly lost: LostFlushes };

/** A worker that does not do what it was asked. */
export class WorkerError extends Error {
  override readonly name = 'WorkerError';
  /** GONE: it has ended. FAILED: it refused, or failed in a way that nobody expected. TIMEOUT: it has not answered in time. */
  readonly code: 'GONE' | 'FAILED' | 'TIMEOUT';
  readonly worker: number;

  constructor(code: WorkerError['code'], worker: number, detail: string) {
    super(`worker ${worker}: ${detail}`);
    this.code = code;
    this.worker = worker;
  }
}

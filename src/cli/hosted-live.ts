/**
 * The daemon's live volumes as a command sees them that the daemon runs: every call is a message to the daemon and its answer.
 *
 * Invariant: when the daemon goes away, everything that was asked and will be asked is refused, so that nothing waits for ever.
 */
import type { FromHosted, LiveMethod, ToHosted } from '../daemon/client/messages.ts';
import { CommandError } from '../lvm/edit/errors.ts';
import type { LiveProblem, LiveStatus, LiveVolumes, MoveStatus, VolumeId } from '../lvm/live.ts';

interface Pending {
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: CommandError) => void;
}

export class HostedLive implements LiveVolumes {
  readonly present = true;
  readonly #send: (message: FromHosted) => void;
  readonly #pending = new Map<number, Pending>();
  #lastId = 0;
  #gone = false;

  constructor(send: (message: FromHosted) => void) {
    this.#send = send;
  }

  readonly holds: LiveVolumes['holds'] = (identity) => this.#call<boolean>('holds', identity);
  readonly prepare: LiveVolumes['prepare'] = (change) => this.#call<undefined>('prepare', change);
  readonly committed: LiveVolumes['committed'] = (change) => this.#call<readonly LiveProblem[]>('committed', change);
  readonly abandoned: LiveVolumes['abandoned'] = (change) => this.#call<undefined>('abandoned', change);
  readonly activate: LiveVolumes['activate'] = (activation) =>
    this.#call<readonly LiveProblem[]>('activate', activation);
  readonly status: LiveVolumes['status'] = (vgId) => this.#call<ReadonlyMap<VolumeId, LiveStatus>>('status', vgId);
  readonly moveStatus: LiveVolumes['moveStatus'] = (lv) => this.#call<MoveStatus | null>('moveStatus', lv);
  readonly rescan: LiveVolumes['rescan'] = () => this.#call<undefined>('rescan');
  readonly flushLost: LiveVolumes['flushLost'] = (identity, errno) =>
    this.#call<undefined>('flushLost', identity, errno);

  /** An answer of the daemon. */
  answered(message: Extract<ToHosted, { readonly kind: 'live-result' | 'live-refused' }>): void {
    const pending = this.#pending.get(message.id);
    this.#pending.delete(message.id);
    if (message.kind === 'live-result') pending?.resolve(message.value);
    else pending?.reject(new CommandError(message.lines, message.exitCode));
  }

  /** The daemon is no more. */
  lost(): void {
    this.#gone = true;
    for (const { reject } of this.#pending.values()) reject(goneAway());
    this.#pending.clear();
  }

  #call<Result>(method: LiveMethod, ...args: readonly unknown[]): Promise<Result> {
    if (this.#gone) return Promise.reject(goneAway());
    const { promise, resolve, reject } = Promise.withResolvers<Result>();
    const id = ++this.#lastId;
    // Both ends are ours: what `method` answers is what LiveVolumes says.
    this.#pending.set(id, { resolve: (value) => resolve(value as Result), reject });
    this.#send({ kind: 'live', id, method, args });
    return promise;
  }
}

function goneAway(): CommandError {
  return new CommandError('orion-lvmd went away; its volumes follow the metadata when it is started again.');
}

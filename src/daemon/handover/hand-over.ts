/**
 * Handing everything over to a process that follows: the order of it, and the way back.
 *
 *     successor ready → no commands → it looks → no new clients → clients quiet, volumes suspended | sockets given, volumes closed → take
 *
 * Invariants
 *  - Left of the bar each step can be undone, and is when one fails: what was served goes on, and nobody was refused.
 *  - Right of it nothing here writes any more. If the successor fails then, or is not heard of, it is ended, and so is this process, with an
 *    error: clients lose their connection, and whoever watches over the daemon starts it again, by himself alone.
 *  - New clients wait in the listeners' queues or at the gates, and go the way that everything goes.
 */
import type { VolumeId } from '../../lvm/live.ts';
import type { NbdAddress } from '../../nbd/listener.ts';
import type { NbdServer } from '../../nbd/server.ts';
import { closeHandle } from '../../nbd/socket-handle.ts';
import type { OpenControl } from '../control/open.ts';
import { DaemonError, reasonOf } from '../errors.ts';
import type { Inventory } from '../inventory.ts';
import type { Logger } from '../log.ts';
import type { VolumeSet } from '../volumes.ts';
import type { WorkerPool } from '../worker/pool.ts';
import type { Knowledge } from './messages.ts';
import type { Successor } from './successor.ts';

/** How long is waited, in ms. */
export interface Patience {
  /** For the successor to be ready: processes have to start. Nobody waits for it meanwhile. */
  readonly ready: number;
  /** For commands that run. */
  readonly commands: number;
  /** For the successor to have looked. */
  readonly look: number;
  /** For clients that negotiate, to choose. */
  readonly negotiations: number;
  /** For the successor to serve: its end would be noticed earlier. */
  readonly serving: number;
  /** For peers of the control socket, to take their answers. */
  readonly answers: number;
  /** For a successor that is told to end. */
  readonly end: number;
}

const PATIENCE: Patience = {
  ready: 300_000,
  commands: 30_000,
  look: 120_000,
  negotiations: 500,
  serving: 300_000,
  answers: 2000,
  end: 10_000,
};
const QUIET = { workMs: 10_000, answerMs: 500 };

export interface HandedOver {
  readonly workers: Pick<WorkerPool, 'quiesce' | 'goOn' | 'release' | 'drain' | 'lossAmong'>;
  readonly volumes: VolumeSet;
  readonly nbd: Pick<NbdServer, 'gate' | 'nextId' | 'settled' | 'endNegotiations'>;
  readonly control: Pick<OpenControl, 'gate' | 'holdCommands' | 'admitCommands' | 'answered'>;
  /** As it is now. */
  readonly inventory: () => Inventory;
  readonly knowledge: () => Pick<Knowledge, 'decisions' | 'added'>;
  /** Does the work when nothing else looks at devices or changes volumes. */
  readonly inTurn: (work: () => Promise<void>) => Promise<void>;
  /** Nothing is undone any more: what writes for itself, ends. */
  readonly letGo: () => Promise<void>;
  /** Where it is not as usual. */
  readonly patience: Partial<Patience>;
  readonly log: Logger;
}

/** Settles when the successor serves. Throws a DaemonError HAND_OVER, after which everything goes on, or HAND_OVER_LOST. */
export async function handOver(parts: HandedOver, successor: Follower): Promise<void> {
  const { control } = parts;
  const patience = { ...PATIENCE, ...parts.patience };
  await using undo = new AsyncDisposableStack();
  undo.defer(() => successor.end(patience.end));
  await successor.hear('ready', patience.ready);
  undo.defer(() => control.gate.open());
  control.gate.hold();
  undo.defer(() => control.admitCommands());
  const running = await control.holdCommands(patience.commands);
  if (running.length > 0) throw refused(`${running.join(', ')} still runs: end it, or wait for its end`);
  // Commands need turns to come to their end.
  await parts.inTurn(async () => {
    const quietSince = await makeQuiet({ ...parts, patience }, successor, undo);
    // From here on there is no way back.
    undo.move();
    await give({ ...parts, patience }, successor, quietSince);
  });
}

/** The process that follows. */
type Follower = Pick<Successor, 'hear' | 'say' | 'give' | 'given' | 'mustLive' | 'end' | 'kill'>;
type Patiently = Omit<HandedOver, 'patience'> & { readonly patience: Patience };

/** The rest of what can be undone. Gives when clients began to wait, as Date.now(). */
async function makeQuiet(parts: Patiently, successor: Follower, undo: AsyncDisposableStack): Promise<number> {
  const { workers, volumes, nbd, patience } = parts;
  const inventory = parts.inventory();
  // Nobody is moved to another worker any more: many moves may wait for one device.
  undo.defer(() => volumes.branches.goOn());
  volumes.branches.stop();
  await volumes.settled();
  const stuck = volumes.stuck();
  if (stuck !== null) throw refused(stuck);
  successor.say({ kind: 'look', knowledge: { ...parts.knowledge(), inventory, served: servedBy(volumes) } });
  const { lost } = await successor.hear('looked', patience.look);
  const [first] = lost;
  if (first !== undefined) throw refused(`${first.name} would not be served any more: ${first.reason}`);
  undo.defer(() => nbd.gate.open());
  nbd.gate.hold();
  await nbd.settled(patience.negotiations);
  // Who chooses from now on waits, and is let go: a worker that is quiet takes nobody.
  const ids = volumes.status().map(({ id }) => id);
  undo.defer(() => volumes.clients.release(ids));
  volumes.clients.block(ids);
  // Who has chosen before may have a volume brought to one more worker.
  await volumes.settled();
  undo.defer(() => workers.goOn());
  const quietSince = Date.now();
  const problem = await workers.quiesce(QUIET);
  // Who opens the devices anew would tell clients that what is lost is durable.
  const loss = problem ?? workers.lossAmong(volumes.deviceKeysOf(null));
  if (loss !== null) throw refused(loss);
  successor.mustLive();
  return quietSince;
}

async function give(parts: Patiently, successor: Follower, quietSince: number): Promise<void> {
  const { workers, nbd, control, letGo, patience, log } = parts;
  const passOn = async (address: NbdAddress | null, handle: object): Promise<void> => {
    try {
      await successor.give({ kind: 'accepted', address }, handle);
    } catch (err) {
      log.warn({ err }, 'a new client was lost');
    } finally {
      closeHandle(handle);
    }
  };
  try {
    const [problems] = await Promise.all([workers.release(), letGo()]);
    for (const reason of problems) log.error({ reason }, 'something could not be closed');
    successor.say({ kind: 'take', taken: { quietSince, nextId: nbd.nextId } });
    nbd.gate.divert((handle, address) => void passOn(address, handle));
    control.gate.divert((handle) => void passOn(null, handle));
    await successor.hear('serving', patience.serving);
  } catch (error) {
    // Whoever starts the daemon again does not know of it.
    successor.kill('SIGKILL');
    throw new DaemonError({ code: 'HAND_OVER_LOST', reason: reasonOf(error) }, { cause: error });
  }
  // Who was about to leave, leaves.
  await Promise.all([workers.drain(), nbd.endNegotiations(), control.answered(patience.answers)]);
  await successor.given();
}

function servedBy(volumes: VolumeSet): Knowledge['served'] {
  const served = new Map<VolumeId, { readonly id: VolumeId; readonly key: string; readonly readOnly: boolean }>();
  for (const { id } of volumes.status()) {
    const known = volumes.served(id);
    if (known !== null) served.set(id, known);
  }
  return served;
}

function refused(reason: string): DaemonError {
  return new DaemonError({ code: 'HAND_OVER', reason });
}

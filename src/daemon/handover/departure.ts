/**
 * Where the clients go that workers give away: to another worker of this daemon, or, when it hands everything over, to the process that
 * follows.
 *
 * Invariants
 *  - A client that can't be had where it is to go has ended, and is counted no more.
 *  - Nothing is promised to a process that follows before everything is served here.
 */
import type { NbdServer } from '../../nbd/server.ts';
import type { OpenControl } from '../control/open.ts';
import type { DeviceSet } from '../devices.ts';
import { DaemonError } from '../errors.ts';
import type { Listeners } from '../listeners.ts';
import type { DaemonVolumes } from '../live.ts';
import type { Logger } from '../log.ts';
import type { Scans } from '../scans.ts';
import type { Stock } from '../stock.ts';
import type { AdoptRequest } from '../worker/host.ts';
import { estateOf, type Possessions } from './estate.ts';
import { type HandedOver, handOver, type Patience } from './hand-over.ts';
import { FdList, type Program, Successor } from './successor.ts';

export interface DepartureParts extends Pick<HandedOver, 'workers' | 'volumes'> {
  readonly nbd: NbdServer;
  readonly devices: DeviceSet;
  readonly listeners: Listeners;
  readonly scans: Scans;
  readonly live: DaemonVolumes;
  readonly stock: Stock;
  readonly log: Logger;
}

/** What is as it is when everything is to be handed over. */
export interface Departing extends Pick<Possessions, 'settings' | 'lockFd' | 'metrics'>, Pick<HandedOver, 'letGo'> {
  /** Null: it is not served yet. */
  readonly control: OpenControl | null;
  readonly patience: Partial<Patience>;
}

export class Departure {
  readonly #parts: DepartureParts;
  /** Who gets the clients. */
  #successor: Successor | null = null;

  constructor(parts: DepartureParts) {
    this.#parts = parts;
  }

  /** A worker gives a client away: to another worker, or to the process that follows. */
  async moved(request: AdoptRequest, handle: object): Promise<void> {
    const { volumes, nbd, log } = this.#parts;
    const { connection } = request;
    const stays = volumes.clients.isMoving(connection);
    try {
      if (stays) await volumes.clients.arrive(request, handle);
      else await this.#successor?.give({ kind: 'client', request }, handle);
    } catch (err) {
      if (stays) nbd.ended(connection);
      log.warn({ err, connection }, 'a client was lost');
    }
  }

  /** Ends at once who is getting everything: he would go on when this process was told not to. */
  kill(): void {
    this.#successor?.kill('SIGKILL');
  }

  /** Hands everything over to a process of the same program. Throws a DaemonError HAND_OVER or HAND_OVER_LOST, as `handOver` does. */
  async handOver(program: Program, departing: Departing): Promise<Successor> {
    const { workers, volumes, nbd, devices, listeners, scans, live, stock, log } = this.#parts;
    const { control, letGo, patience, ...rest } = departing;
    const { inventory } = scans;
    if (control === null || inventory === null) {
      throw new DaemonError({ code: 'HAND_OVER', reason: 'nothing is served yet' });
    }
    const fds = new FdList();
    const places = { claims: devices.claims(), listeners: listeners.places, controlFd: control.fd };
    const successor = Successor.start(program, fds, estateOf({ ...rest, ...places }, fds));
    this.#successor = successor;
    await handOver(
      {
        workers,
        volumes,
        nbd,
        control,
        log,
        inventory: () => scans.inventory ?? inventory,
        knowledge: () => ({ decisions: live.decisions, added: stock.added }),
        inTurn: (work) => scans.inTurn(work),
        letGo,
        patience,
      },
      successor,
    );
    return successor;
  }
}

/**
 * auto_recovery in the daemon: when a scan (at the start, after a change, of a device that came back) finds stale or damaged copies
 * of metadata, a command is run at once that repairs them, as any command would before it does anything else (cli/recover.ts).
 *
 * Invariants
 *  - The repair is a command like those of users: same locks, same archive, same audit record, and the daemon's volumes follow it.
 *  - The same damage is tried once: what could not be repaired is told, and tried again when it has changed, or by a user.
 *  - One repair at a time; closing waits for none, as the runner that carries it out ends it.
 */
import type { Scan, VolumeGroup } from '../lvm/model.ts';
import { needsRepair } from '../lvm/repair.ts';
import { ownRequest, type OwnRunner, type OwnSurroundings } from './commands/own.ts';
import type { CommandRequest } from './client/messages.ts';
import type { Logger } from './log.ts';

export interface RecoveryOptions {
  readonly runner: OwnRunner;
  /** The daemon's own lvm.toml and devices, if there is to be recovery; null: there is none. */
  readonly own: () => OwnSurroundings | null;
  readonly log: Logger;
}

export class MetadataRecovery {
  readonly #options: RecoveryOptions;
  /** Damage that was tried to repair, as described. */
  #tried: ReadonlySet<string> = new Set();
  #running = false;

  constructor(options: RecoveryOptions) {
    this.#options = options;
  }

  /** To be called after each scan; returns at once. */
  look(scan: Scan): void {
    const own = this.#options.own();
    if (this.#running || own === null) return;
    const damaged = scan.volumeGroups.filter((group) => needsRepair(group) && !group.partial);
    const found = new Set(damaged.map(describe));
    const isNew = [...found].some((damage) => !this.#tried.has(damage));
    this.#tried = found;
    if (isNew) this.#repair(damaged, requestFor(own));
  }

  #repair(damaged: readonly VolumeGroup[], request: CommandRequest): void {
    const { runner, log } = this.#options;
    const vgs = damaged.map(({ vg }) => vg.name);
    const said: string[] = [];
    this.#running = true;
    const started = runner.start(request, (event) => {
      if (event.type === 'stderr') said.push(event.text.trim());
      if (event.type !== 'exit') return;
      this.#running = false;
      if (event.code === 0) log.info({ vgs }, 'stale and damaged metadata repaired');
      else log.error({ vgs, code: event.code, said }, 'metadata could not be repaired');
    });
    if (started !== null) return;
    this.#running = false;
    this.#tried = new Set();
    log.warn({ vgs }, 'metadata is not repaired now: too many commands are waiting');
  }
}

/** Any command that looks at VGs repairs them first; this one does nothing else. */
function requestFor(own: OwnSurroundings): CommandRequest {
  return ownRequest(own, 'vgck', []);
}

/** What is wrong with a VG's copies: different when something has changed. */
function describe(group: VolumeGroup): string {
  const stale = group.staleAreas.map(({ devicePath, areaIndex, reason }) => `${devicePath} ${areaIndex} ${reason}`);
  const outdated = group.outdated.map(({ device }) => device.path);
  return JSON.stringify([group.vg.id, group.vg.seqno, stale, outdated]);
}

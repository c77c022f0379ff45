/**
 * lvremove: LVs and what hangs on them taken out of a volume group.
 *
 * Invariants
 *  - An LV goes with its parts (images, logs, metadata, caches), and never leaves one behind or a name that leads nowhere.
 *  - What depends on it goes first: snapshots with their origin, thin volumes with their pool (after a question).
 *  - A single thin volume is refused: its pool has to be told, which needs the pool's own metadata.
 *
 * Source: lvremove(8); messages and prompts of lvremove 2.03.16.
 */
import type { HistoricalLogicalVolumeText, VolumeGroupText } from '../../ondisk/metadata.ts';
import type { ActiveVolumes } from '../active-volumes.ts';
import { isComponentKind, type ReferenceKind } from '../references.ts';
import { relationsOf, type LvFacts, type LvUse } from '../relations.ts';
import { CommandError } from './errors.ts';
import { displayName } from './lv-facts.ts';

/** Asks a question that ends in "[y/n]: ". */
export type Confirm = (question: string) => Promise<boolean>;

/** What a session of removals depends on besides the VG. */
export interface RemovalAround {
  readonly confirm: Confirm;
  /** What is removed is lost at once (devices/issue_discards), so each LV is asked about. */
  readonly discards: boolean;
  /** Which LVs are served, and used by clients. */
  readonly active?: Pick<ActiveVolumes, 'isActive' | 'isOpen'>;
  /** Whether the merge of a snapshot into this LV, which is served, goes on or waits; absent: nothing is served. */
  readonly merges?: (originName: string) => boolean;
  /** LVs in use are removed too: their clients are disconnected. */
  readonly disconnect?: boolean;
}

export interface Removal {
  readonly vg: VolumeGroupText;
  /** What went, in order, with its parts. */
  readonly removed: readonly string[];
  /** "Logical volume … successfully removed." */
  readonly lines: readonly string[];
}

/** Volumes that can't be without the one that they use, and what that one is then called. */
const DEPENDENTS: readonly (readonly [ReferenceKind, string])[] = [
  ['external-origin', 'external origin'],
  ['thin-pool', 'pool'],
  ['vdo-pool', 'VDO pool'],
  ['cache-origin', 'cache origin'],
  ['writecache-origin', 'cache origin'],
];
/** Their extents are not their own: removing them discards nothing. */
const WITHOUT_EXTENTS: ReadonlySet<string> = new Set(['thin', 'vdo']);
const POOLED: ReadonlySet<string> = new Set(['thin-pool', 'cache-pool', 'cache', 'thin']);

/**
 * A session of removals from one VG: each LV is taken out or refused for itself, and `result` is the VG without all that went.
 * It works on the VG as it was and a list of what is gone, so that removing every LV of a large VG costs no more than reading it.
 */
export class LvRemover {
  readonly #vg: VolumeGroupText;
  readonly #lvs: ReadonlyMap<string, LvFacts>;
  readonly #around: RemovalAround;
  readonly #gone = new Set<string>();
  readonly #lines: string[] = [];

  constructor(vg: VolumeGroupText, around: RemovalAround) {
    this.#vg = vg;
    this.#lvs = relationsOf(vg).lvs;
    this.#around = around;
  }

  /** Whether an LV went already, on its own or with another one. */
  isGone(name: string): boolean {
    return this.#gone.has(name);
  }

  result(): Removal {
    const vg = { ...this.#vg, logicalVolumes: this.#vg.logicalVolumes.filter((lv) => !this.#gone.has(lv.name)) };
    return { vg, removed: [...this.#gone], lines: this.#lines };
  }

  /** Removes an LV that the user named. Throws CommandError (5), and then nothing of it is gone. */
  async remove(name: string): Promise<void> {
    const facts = this.#lvs.get(name);
    if (facts === undefined || facts.snapshotRecord) {
      throw new CommandError(`Failed to find logical volume "${this.#vg.name}/${name}"`);
    }
    refuseMergedThin(this.#vg, facts);
    await this.#confirmUnmerged(facts);
    const origin = facts.snapshot === null ? undefined : this.#lvs.get(facts.snapshot.origin);
    const before = this.#gone.size;
    const said = this.#lines.length;
    try {
      await this.#removeTree(origin?.virtualOrigin === true ? origin : facts, new Set());
    } catch (error) {
      for (const other of [...this.#gone].slice(before)) this.#gone.delete(other);
      this.#lines.length = said;
      throw error;
    }
  }

  /** A merge that nobody goes on with can be given up; one that has stopped, too. */
  async #confirmUnmerged({ lv, snapshot }: LvFacts): Promise<void> {
    if (snapshot?.segment.merging !== true) return;
    const name = displayName(this.#vg, lv);
    const { merges, confirm } = this.#around;
    if (merges?.(snapshot.origin) === true) {
      throw new CommandError(`Can't remove merging snapshot logical volume ${name}.`);
    }
    const question = `Removing merging snapshot ${name} loses what ${this.#vg.name}/${snapshot.origin} has not got of it. Proceed? [y/n]: `;
    if (!(await confirm(question))) throw new CommandError(`Logical volume ${name} not removed.`);
  }

  /** An LV with its dependents. `doomed`: LVs that are going to be removed after it. */
  async #removeTree(facts: LvFacts, doomed: ReadonlySet<string>): Promise<void> {
    if (this.#gone.has(facts.name)) return;
    const inside = new Set([...doomed, facts.name]);
    const cows = facts.snapshots.map((link) => link.cow);
    for (const name of [...cows, ...(await this.#dependentsOf(facts))]) {
      const dependent = this.#lvs.get(name);
      if (dependent !== undefined) await this.#removeTree(dependent, inside);
    }
    await this.#removeSingle(facts, doomed);
  }

  /** Volumes that can't be without this one, after asking. */
  async #dependentsOf(facts: LvFacts): Promise<readonly string[]> {
    for (const [kind, word] of DEPENDENTS) {
      const users = this.#usersOf(facts)
        .filter((use) => use.kind === kind)
        .map((use) => use.user);
      if (users.length === 0) continue;
      const name = displayName(this.#vg, facts.lv);
      const question = `Removing ${word} ${name} will remove ${users.length} dependent volume(s). Proceed? [y/n]: `;
      if (!(await this.#around.confirm(question))) throw new CommandError(`Logical volume ${name} not removed.`);
      return users;
    }
    return [];
  }

  /** An LV that nothing depends on any more, with its parts. */
  async #removeSingle(facts: LvFacts, doomed: ReadonlySet<string>): Promise<void> {
    this.#refuse(facts, doomed);
    await this.#confirmLoss(facts);
    const pooled = POOLED.has(facts.lv.segments[0]?.type ?? '');
    this.#takeParts(facts);
    if (facts.snapshot !== null) this.#gone.add(facts.snapshot.record);
    if (pooled) this.#takeUselessSpare();
    if (facts.visible || facts.snapshot?.segment.merging === true) {
      this.#lines.push(`Logical volume "${facts.name}" successfully removed.`);
    }
  }

  /** Asks about what is active, and about what is discarded. */
  async #confirmLoss({ lv, virtualOrigin, visible, snapshots }: LvFacts): Promise<void> {
    const { confirm, active, disconnect } = this.#around;
    const name = displayName(this.#vg, lv);
    const isActive = active?.isActive(lv.name) === true;
    const isOpen = active?.isOpen(lv.name) === true;
    if (isOpen && disconnect !== true) {
      throw new CommandError(`Logical volume ${name} in use.`);
    }
    const discards = this.#around.discards && !virtualOrigin && !WITHOUT_EXTENTS.has(lv.segments[0]?.type ?? '');
    if (isActive ? !visible : !discards) return;
    const words = [...(discards ? ['and', 'DISCARD'] : []), ...(isActive ? ['active'] : [])];
    const what = snapshots.length === 0 ? '' : ` origin`;
    const tail = snapshots.length === 0 ? '' : ` with ${snapshots.length} snapshots(s)`;
    const question = `Do you really want to remove ${words.join(' ')}${what} logical volume ${name}${tail}? [y/n]: `;
    if (!(await confirm(question))) throw new CommandError(`Logical volume ${name} not removed.`);
  }

  #usersOf(facts: LvFacts): readonly LvUse[] {
    return facts.usedBy.filter((use) => !this.#gone.has(use.user));
  }

  #refuse(facts: LvFacts, doomed: ReadonlySet<string>): void {
    const name = displayName(this.#vg, facts.lv);
    const uses = this.#usersOf(facts);
    const by = (...kinds: readonly ReferenceKind[]): boolean => uses.some((use) => kinds.includes(use.kind));
    if (facts.snapshots.some((link) => !this.#gone.has(link.cow))) {
      throw new CommandError(`Can't remove logical volume ${name} under snapshot.`);
    }
    if (by('external-origin')) throw new CommandError(`Can't remove external origin logical volume ${name}.`);
    if (by('mirror-image')) throw new CommandError(`Can't remove logical volume ${name} used by a mirror.`);
    if (by('mirror-log')) throw new CommandError(`Can't remove logical volume ${name} used as mirror log.`);
    if (by('raid-image', 'raid-metadata')) {
      throw new CommandError(`Can't remove logical volume ${name} used as RAID device.`);
    }
    if (by('pool-data', 'pool-metadata')) throw new CommandError(`Can't remove logical volume ${name} used by a pool.`);
    if (facts.lv.status.includes('LOCKED')) throw new CommandError(`Can't remove locked logical volume ${name}.`);
    const other = uses.find((use) => isComponentKind(use.kind) && use.kind !== 'snapshot-cow');
    if (other !== undefined) {
      throw new CommandError(`Can't remove logical volume ${name}: it is part of ${this.#vg.name}/${other.user}.`);
    }
    // A thin volume's blocks are its pool's to free; with the pool itself gone there is nothing to free.
    const pool = facts.uses.find((use) => use.kind === 'thin-pool')?.name;
    if (pool !== undefined && !doomed.has(pool)) {
      throw new CommandError(
        `Cannot remove thin volume ${name} from pool ${this.#vg.name}/${pool}: LV type thin is not supported yet.`,
      );
    }
  }

  /** Takes an LV and whatever is part of it and of nothing else. */
  #takeParts(facts: LvFacts): void {
    this.#gone.add(facts.name);
    const pending = [facts];
    for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
      for (const { name, kind } of next.uses) {
        const part = this.#lvs.get(name);
        if (part === undefined || this.#gone.has(name) || !(isComponentKind(kind) || kind === 'area')) continue;
        if (this.#usersOf(part).length > 0) continue;
        this.#gone.add(name);
        pending.push(part);
      }
    }
  }

  /** The metadata spare goes with the last pool. */
  #takeUselessSpare(): void {
    const left = [...this.#lvs.values()].filter((facts) => !this.#gone.has(facts.name));
    if (left.some((facts) => POOLED.has(facts.lv.segments[0]?.type ?? ''))) return;
    const spare = left.find((facts) => facts.name.endsWith('_pmspare') && !facts.visible);
    if (spare !== undefined) this.#gone.add(spare.name);
  }
}

/** The LVs that "every LV" means, in the order in which LVM2 takes them: pools first, as what is in them goes with them. */
export function inRemovalOrder(vg: VolumeGroupText): readonly LvFacts[] {
  const pools: LvFacts[] = [];
  const others: LvFacts[] = [];
  for (const facts of relationsOf(vg).lvs.values()) {
    if (facts.snapshotRecord || facts.virtualOrigin || !facts.visible) continue;
    (facts.lv.segments[0]?.type === 'thin-pool' ? pools : others).push(facts);
  }
  return [...pools.toReversed(), ...others];
}

/** Removes one LV. Throws CommandError (5). */
export async function removeLv(vg: VolumeGroupText, name: string, confirm: Confirm): Promise<Removal> {
  const remover = new LvRemover(vg, { confirm, discards: false });
  await remover.remove(name);
  return remover.result();
}

function refuseMergedThin(vg: VolumeGroupText, { lv }: LvFacts): void {
  const first = lv.segments[0];
  if (first?.type === 'thin' && first.merge !== undefined) {
    throw new CommandError(`Unable to remove ${displayName(vg, lv)}, volume is merged to ${vg.name}/${first.merge}.`);
  }
}

/** Removes a remembered LV. Throws CommandError (5). */
export function removeHistoricalLv(vg: VolumeGroupText, name: string): Removal {
  const gone = vg.historicalLogicalVolumes.find((lv) => (lv.name ?? lv.label) === name);
  if (gone === undefined) throw new CommandError(`Failed to find logical volume "${vg.name}/-${name}"`);
  const link = `-${name}`;
  const historicalLogicalVolumes = vg.historicalLogicalVolumes
    .filter((lv) => lv !== gone)
    .map((lv) => unlinked(lv, link));
  return {
    vg: { ...vg, historicalLogicalVolumes },
    removed: [name],
    lines: [`Historical logical volume "${name}" successfully removed.`],
  };
}

/** A remembered LV without its ties to one that is forgotten. */
function unlinked({ origin, ...lv }: HistoricalLogicalVolumeText, link: string): HistoricalLogicalVolumeText {
  const descendants = lv.descendants.filter((other) => other !== link);
  return origin === undefined || origin === link ? { ...lv, descendants } : { ...lv, origin, descendants };
}

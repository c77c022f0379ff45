/**
 * The ten characters of lv_attr:
 *
 *     1 type   2 permissions   3 allocation policy (capital: locked)   4 m fixed minor   5 active   6 open
 *     7 target type   8 z zeroes new blocks   9 health   0 k skipped on activation
 *
 * Invariant: positions 5 and 6 are what the daemon says that runs the command, and "-" without one; 9 knows only what the metadata
 * can tell: partial, reshaping, write-mostly.
 *
 * Source: lvs(8) "LV Attr bits"; precedence observed with LVM2 2.03.16 on every kind of LV.
 */
import { isPvmove, relationsOf, type LvFacts } from '../../../lvm/relations.ts';
import { isCachevolUse } from '../../../lvm/layout.ts';
import type { LiveStatus } from '../../../lvm/live.ts';
import type { VolumeGroup } from '../../../lvm/model.ts';
import { servedStatus } from '../../../lvm/served.ts';
import type { LogicalVolumeText, Segment } from '../../../ondisk/metadata.ts';
import { partialLvs } from './usage.ts';
import { POLICY_LETTERS, policyWord } from './vg.ts';

/** Segment types that map onto nothing below them. */
const VIRTUAL_TYPES: ReadonlySet<string> = new Set(['error', 'zero', 'vdo', 'unknown']);

/** What position 1 and 7 ask about an LV. */
export class LvKind {
  readonly facts: LvFacts;
  readonly first: Segment | undefined;
  readonly #group: VolumeGroup;

  constructor(group: VolumeGroup, facts: LvFacts) {
    this.#group = group;
    this.facts = facts;
    this.first = facts.lv.segments[0];
  }

  #usedAs(...kinds: readonly string[]): boolean {
    return this.facts.usedBy.some((use) => kinds.includes(use.kind));
  }
  /** The type of the pool that uses this LV as its data or metadata. */
  #poolType(): string | undefined {
    const use = this.facts.usedBy.find(({ kind }) => kind === 'pool-data' || kind === 'pool-metadata');
    return use === undefined ? undefined : relationsOf(this.#group.vg).lvs.get(use.user)?.lv.segments[0]?.type;
  }

  get isOrigin(): boolean {
    return this.facts.snapshots.length > 0;
  }
  get isExternalOrigin(): boolean {
    return this.#usedAs('external-origin');
  }
  /** A COW snapshot of it, or a thin snapshot, will be merged into it. */
  get isMergingOrigin(): boolean {
    return this.facts.snapshots.some((link) => link.segment.merging);
  }
  get isThinMergingOrigin(): boolean {
    return this.facts.usedBy.some((use) => use.kind === 'thin-origin' && mergesInto(use.segment, this.facts.name));
  }
  get isMergingThin(): boolean {
    return this.first?.type === 'thin' && this.first.merge !== undefined;
  }
  get isMergingCow(): boolean {
    return this.facts.snapshot?.segment.merging ?? false;
  }
  /** Conversion layers below it: a mirror whose first image is a mirror. */
  get conversionLayer(): string | null {
    const area = this.first?.type === 'mirror' ? this.first.areas[0] : undefined;
    const layer = area === undefined ? undefined : relationsOf(this.#group.vg).lvs.get(area.name);
    return layer?.lv.segments[0]?.type === 'mirror' && !layer.lv.status.includes('LOCKED') ? layer.name : null;
  }
  get isRaid(): boolean {
    return this.first?.type === 'raid' || this.first?.type === 'raid0';
  }
  get isRaidPart(): boolean {
    return this.#usedAs('raid-image', 'raid-metadata');
  }
  get isMirrorPart(): boolean {
    return this.#usedAs('mirror-image', 'mirror-log');
  }
  /** Metadata of a thin or cache pool, of raid or of integrity, and the spare. */
  get isMetadata(): boolean {
    const spare = !this.facts.lv.status.includes('VISIBLE') && this.facts.name.endsWith('_pmspare');
    return spare || this.#usedAs('pool-metadata', 'raid-metadata', 'integrity-metadata');
  }
  get isCachevol(): boolean {
    return this.facts.usedBy.some((use) => isCachevolUse(this.facts, use));
  }
  /** A cache, a cache pool, a writecache, or what holds one's blocks. */
  get isCache(): boolean {
    const type = this.first?.type;
    return type === 'cache' || type === 'cache-pool' || type === 'writecache' || this.isCachevol;
  }
  get isCacheOrigin(): boolean {
    return this.#usedAs('cache-origin', 'writecache-origin');
  }
  get isVirtual(): boolean {
    return this.facts.lv.segments.some((segment) => VIRTUAL_TYPES.has(segment.type));
  }
  get hasUnknownSegments(): boolean {
    return this.facts.lv.segments.some((segment) => segment.type === 'unknown');
  }
  get isThin(): boolean {
    return this.first?.type === 'thin';
  }
  get isThinPool(): boolean {
    return this.first?.type === 'thin-pool';
  }
  get isCow(): boolean {
    return this.facts.snapshot !== null;
  }
  get isMirrorImage(): boolean {
    return this.#usedAs('mirror-image');
  }
  get isMirrorLog(): boolean {
    return this.#usedAs('mirror-log');
  }
  get isRaidImage(): boolean {
    return this.#usedAs('raid-image');
  }
  /** T, C or D: the data of a thin, cache or VDO pool; null: of none. */
  get poolDataLetter(): string | null {
    if (!this.#usedAs('pool-data')) return null;
    return { 'thin-pool': 'T', 'cache-pool': 'C', 'vdo-pool': 'D' }[this.#poolType() ?? ''] ?? null;
  }
}

function mergesInto(segment: Segment, name: string): boolean {
  return segment.type === 'thin' && segment.merge === name;
}

function typeLetter(kind: LvKind): string {
  const { lv } = kind.facts;
  const synced = !lv.status.includes('NOTSYNCED');
  if (isPvmove(lv)) return 'p';
  if (kind.conversionLayer !== null) return 'c';
  if (kind.isMergingOrigin || kind.isThinMergingOrigin) return 'O';
  if (kind.isOrigin || kind.isExternalOrigin) return 'o';
  if (kind.isMetadata) return 'e';
  if (kind.isCache) return 'C';
  if (kind.isRaid) return synced ? 'r' : 'R';
  if (kind.first?.type === 'mirror') return synced ? 'm' : 'M';
  if (kind.isThin) return kind.isMergingThin ? 'S' : 'V';
  if (kind.isVirtual) return 'v';
  if (kind.isThinPool) return 't';
  if (kind.poolDataLetter !== null) return kind.poolDataLetter;
  if (kind.first?.type === 'vdo-pool') return 'd';
  if (kind.first?.type === 'integrity') return 'g';
  // In sync can only be known from a running mirror.
  if (kind.isMirrorImage || kind.isRaidImage) return 'I';
  if (kind.isMirrorLog) return 'l';
  if (kind.isCow) return kind.isMergingCow ? 'S' : 's';
  return kind.isCacheOrigin ? 'o' : '-';
}

/** Whether the LV may be written. */
export function isLvWritable(lv: LogicalVolumeText): boolean {
  return lv.status.includes('WRITE');
}

function permissionLetter(lv: LogicalVolumeText, status: LiveStatus | null): string {
  if (isPvmove(lv)) return '-';
  if (isLvWritable(lv)) return status?.readOnly === true ? 'R' : 'w';
  return lv.status.includes('READ') ? 'r' : '-';
}

/** The word for an LV's own policy. */
export function lvPolicy(lv: LogicalVolumeText): string {
  return policyWord(lv.allocationPolicy ?? 'inherit');
}

export function isLocked(lv: LogicalVolumeText): boolean {
  return lv.status.includes('LOCKED');
}

function policyLetter(lv: LogicalVolumeText): string {
  const letter = POLICY_LETTERS[lvPolicy(lv)] ?? '-';
  return isLocked(lv) ? letter.toUpperCase() : letter;
}

function targetLetter(kind: LvKind): string {
  if (kind.isThin || kind.isThinPool) return 't';
  if (kind.isCache || kind.isCacheOrigin) return 'C';
  if (kind.isRaid || kind.isRaidPart) return 'r';
  if (kind.first?.type === 'mirror' || kind.isMirrorPart) return 'm';
  if (kind.isCow || kind.isOrigin) return 's';
  if (kind.hasUnknownSegments) return 'u';
  return kind.isVirtual ? 'v' : '-';
}

/** The thin pool that an LV is, or lies in, zeroes new blocks. */
function zeroLetter(group: VolumeGroup, kind: LvKind): string {
  const pool =
    kind.first?.type === 'thin' ? relationsOf(group.vg).lvs.get(kind.first.thinPool)?.lv.segments[0] : kind.first;
  return pool?.type === 'thin-pool' && pool.zeroNewBlocks ? 'z' : '-';
}

/** lv_health_status, as far as metadata tell: "partial", "writemostly" or "". */
export function lvHealth(group: VolumeGroup, facts: LvFacts): string {
  if (partialLvs(group).has(facts.name)) return 'partial';
  const image = facts.usedBy.some((use) => use.kind === 'raid-image');
  return image && facts.lv.status.includes('WRITEMOSTLY') ? 'writemostly' : '';
}

function stateLetter({ suspended, snapshot }: LiveStatus): string {
  if (snapshot?.state === 'invalid') return suspended ? 'S' : 'I';
  if (snapshot?.state === 'merge-failed') return suspended ? 'M' : 'm';
  return suspended ? 's' : 'a';
}

function stateLetters(status: LiveStatus | null): string {
  if (status === null) return '--';
  return `${stateLetter(status)}${status.openCount > 0 ? 'o' : '-'}`;
}

/** The ten characters. */
export function lvAttr(group: VolumeGroup, facts: LvFacts): string {
  const kind = new LvKind(group, facts);
  const { lv } = facts;
  const status = servedStatus(group, lv);
  return [
    typeLetter(kind),
    permissionLetter(lv, status),
    policyLetter(lv),
    lv.status.includes('FIXED_MINOR') ? 'm' : '-',
    stateLetters(status),
    targetLetter(kind),
    zeroLetter(group, kind),
    { partial: 'p', writemostly: 'w' }[lvHealth(group, facts)] ?? '-',
    lv.flags.includes('ACTIVATION_SKIP') ? 'k' : '-',
  ].join('');
}

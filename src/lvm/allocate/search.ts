/**
 * One look for areas side by side under one policy: which area of which PV goes into which slot.
 *
 * How LVM2 chooses (lib/metadata/lv_manip.c), which decides what `lvs -o devices` shows:
 *  - Where new space must continue something (contiguous, cling), each slot belongs to one area of what is continued, and the
 *    first fitting area found takes it.
 *  - Otherwise each PV offers one area: its largest, or the smallest that holds all that is needed; the offers are sorted by
 *    size, ties in the order of the PVs, and the first ones are taken. With `anywhere` a PV may offer several.
 *
 * Invariant: a search either fills all slots and takes the extents, or leaves the free space as it was.
 */
import type { LogicalVolumeText, SegmentArea, VolumeGroupText } from '../../ondisk/metadata.ts';
import { areaExtents, segmentAreas } from '../references.ts';
import { relationsOf } from '../relations.ts';
import type { FreeArea, FreePv } from './free-areas.ts';
import type { AllocatedRow, AllocationRequest, ConcretePolicy } from './request.ts';
import { shareClingTag } from './tags.ts';

/** What a pass over the PVs must keep to. */
export interface Constraints {
  readonly policy: ConcretePolicy;
  /** The areas must follow those of the LV's last segment. */
  readonly contiguousToLast: boolean;
  /** The areas must be on the PVs of the LV. */
  clingToLv: boolean;
  /** … or on those of what was allocated so far. */
  clingToAllocated: boolean;
  /** Sharing a tag is as good as the same PV. */
  readonly clingByTags: boolean;
  /** The LV's last segment has as many areas as are wanted. */
  readonly sameAreaCount: boolean;
  /** Slots belong to the areas of what is continued. */
  positional: boolean;
  /** No two areas may share a tag of the cling tag list. */
  readonly oneAreaPerTag: boolean;
  readonly canSplit: boolean;
}

/** A slot's choice. */
interface Choice {
  readonly area: FreeArea;
  /** Extents counted on. */
  readonly used: number;
}

/** Where an existing area lies: on a PV, from an extent. */
interface Neighbour extends SegmentArea {
  readonly length: number;
}

type Verdict = 'next-area' | 'next-pv' | 'use' | 'preferred';

export class Search {
  readonly #request: AllocationRequest;
  readonly #free: readonly FreePv[];
  readonly #rows: AllocatedRow[];
  readonly #byLabel: ReadonlyMap<string, FreePv>;
  readonly #last: readonly Neighbour[];
  readonly #cling: readonly Neighbour[];
  /** For each area of a row, the PVs that the rows found so far have it on. */
  readonly #used: readonly Set<string>[];
  #slots: (Choice | undefined)[] = [];
  /** How many slots are positional. */
  #positional = 0;

  constructor(request: AllocationRequest, free: readonly FreePv[], rows: AllocatedRow[]) {
    this.#request = request;
    this.#free = free;
    this.#rows = rows;
    this.#used = Array.from({ length: request.areaCount }, () => new Set<string>());
    this.#byLabel = new Map(free.map((pv) => [pv.label, pv]));
    const { extending, vg, settings } = request;
    this.#last = extending === null ? [] : neighboursOf(vg, extending, 'last');
    // With maximise_cling LVM2 means to compare with the whole LV, and looks at its first segment.
    this.#cling = extending === null ? [] : neighboursOf(vg, extending, settings.maximiseCling ? 'first' : 'last');
  }

  /**
   * Finds areas for up to `wanted` logical extents, avoiding `parallel` PVs; takes them and appends a row.
   * Gives the logical extents found: 0 if there is no such place.
   */
  find(constraints: Constraints, wanted: number, parallel: readonly string[]): number {
    const { areaCount } = this.#request;
    for (const pv of this.#free) pv.release();
    this.#slots = [];
    this.#positional = 0;
    if (constraints.positional) {
      this.#positional = constraints.clingToAllocated ? areaCount : this.#last.length;
    }
    const { preferred, offers } = this.#look(constraints, wanted, parallel);
    if (preferred < this.#positional && !constraints.clingToAllocated && offers === 0) return 0;
    if (offers + preferred < areaCount) return 0;
    const kept = this.#arrange(constraints, preferred, offers);
    return kept < areaCount ? 0 : this.#take(wanted);
  }

  /** Goes over the PVs, with `anywhere` as long as that finds more; gives the numbers of slots filled in each way. */
  #look(
    constraints: Constraints,
    wanted: number,
    parallel: readonly string[],
  ): { readonly preferred: number; readonly offers: number } {
    const { areaCount } = this.#request;
    const anywhere = constraints.policy === 'anywhere';
    let preferred = 0;
    let offers = 0;
    let before: number;
    do {
      before = offers;
      for (const pv of this.#free) {
        if (pv.areas.length === 0) continue;
        if (anywhere || !this.#isParallel(pv, parallel)) {
          const found = this.#lookAt(pv, constraints, wanted, offers);
          preferred += found.preferred;
          offers += found.offers;
        }
        if (anywhere && offers + this.#positional >= areaCount) break;
        if (preferred === this.#positional && this.#positional === areaCount) break;
      }
      if (!anywhere) break;
    } while (before !== offers && offers < areaCount);
    return { preferred, offers };
  }

  #lookAt(
    pv: FreePv,
    constraints: Constraints,
    wanted: number,
    offered: number,
  ): { readonly preferred: number; readonly offers: number } {
    const anywhere = constraints.policy === 'anywhere';
    let offers = 0;
    // A reserved area moves back in the order, and the walk goes on behind its new place.
    for (let i = 0; i < pv.areas.length;) {
      const area = pv.areas[i];
      if (area === undefined) break;
      const verdict = this.#judge(area, constraints, wanted, offers > 0);
      if (verdict === 'preferred') return { preferred: 1, offers };
      if (verdict === 'next-pv') break;
      if (verdict === 'next-area') {
        i++;
        continue;
      }
      if (offers === 0 || anywhere) offers++;
      const used = pv.reserve(area, Math.floor(wanted / this.#request.areaMultiple));
      this.#slots[offered + offers - 1 + this.#positional] = { area, used };
      i = pv.areas.indexOf(area) + 1;
    }
    return { preferred: 0, offers };
  }

  #judge(area: FreeArea, constraints: Constraints, wanted: number, foundOne: boolean): Verdict {
    if (area.unreserved === 0) return 'next-area';
    const found = constraints.positional ? 'preferred' : 'use';
    const { contiguousToLast, clingToLv, clingToAllocated, canSplit, policy } = constraints;
    if (contiguousToLast || clingToLv || clingToAllocated) {
      const verdict = this.#judgePlace(area, constraints);
      return verdict === 'use' ? found : verdict;
    }
    const enough = area.unreserved * this.#request.areaMultiple >= wanted;
    if (!enough && (!canSplit || (foundOne && policy !== 'anywhere'))) return 'next-pv';
    return found;
  }

  /** Whether an area is where the constraints want it. */
  #judgePlace(area: FreeArea, constraints: Constraints): Verdict {
    const { contiguousToLast, clingToLv, clingToAllocated, clingByTags, sameAreaCount, positional } = constraints;
    const { maximiseCling, clingTagList } = this.#request.settings;
    const eager = maximiseCling && sameAreaCount;
    if ((contiguousToLast || eager) && this.#claims(area, this.#last, positional, follows)) return 'use';
    if (contiguousToLast) return 'next-area';
    if ((clingToLv || eager) && this.#claims(area, this.#cling, positional, isOnSamePv)) return 'use';
    if (clingToAllocated && this.#clingsToAllocated(area, positional, (used) => used.has(area.pv.label))) return 'use';
    if (!clingByTags || clingTagList === null) return 'next-pv';
    const sharesTag = (label: string): boolean => shareClingTag(clingTagList, this.#tagsOf(label), area.pv.tags);
    const byTag = sameAreaCount
      ? this.#claims(area, this.#cling, positional, ({ name }) => sharesTag(name))
      : this.#clingsToAllocated(area, positional, (used) => [...used].some(sharesTag));
    return byTag ? 'use' : 'next-pv';
  }

  /** Whether an area belongs to a neighbour whose slot is still empty; positional choices fill that slot. */
  #claims(
    area: FreeArea,
    neighbours: readonly Neighbour[],
    positional: boolean,
    belongs: (neighbour: Neighbour, area: FreeArea) => boolean,
  ): boolean {
    for (const [slot, neighbour] of neighbours.entries()) {
      if (positional && (this.#slots[slot] !== undefined || slot >= this.#positional)) continue;
      if (!belongs(neighbour, area)) continue;
      if (positional) this.#slots[slot] = { area, used: area.count };
      return true;
    }
    return false;
  }

  /** Whether an area belongs to a slot by the PVs that the slot is on in the rows found so far. */
  #clingsToAllocated(area: FreeArea, positional: boolean, belongs: (used: ReadonlySet<string>) => boolean): boolean {
    for (const [slot, used] of this.#used.entries()) {
      if (positional && this.#slots[slot] !== undefined) continue;
      if (!belongs(used)) continue;
      if (positional) this.#slots[slot] = { area, used: area.count };
      return true;
    }
    return false;
  }

  #tagsOf(label: string): readonly string[] {
    const free = this.#byLabel.get(label);
    return free?.tags ?? relationsOf(this.#request.vg).pvs.get(label)?.tags ?? [];
  }

  #isParallel(pv: FreePv, parallel: readonly string[]): boolean {
    const list = this.#request.settings.clingTagList;
    return parallel.some(
      (label) => label === pv.label || (list !== null && shareClingTag(list, this.#tagsOf(label), pv.tags)),
    );
  }

  /** Puts the best offers into the slots; gives how many slots are filled. */
  #arrange(constraints: Constraints, preferred: number, offers: number): number {
    const { areaCount } = this.#request;
    const chosen = this.#slots.slice(0, this.#positional);
    let sorted = this.#slots
      .slice(this.#positional)
      .filter((choice) => choice !== undefined)
      .toSorted((a, b) => b.used - a.used);
    if (constraints.oneAreaPerTag && this.#positional === 0) sorted = this.#onePerTag(sorted);
    if (preferred > 0 && preferred !== this.#positional) {
      for (let slot = 0; slot < areaCount; slot++) chosen[slot] ??= sorted.shift();
    }
    this.#slots = [...chosen, ...sorted];
    return constraints.oneAreaPerTag ? sorted.length + this.#positional : offers + this.#positional;
  }

  /** Leaves out whatever shares a tag of the list with a better choice. */
  #onePerTag(choices: readonly Choice[]): Choice[] {
    const list = this.#request.settings.clingTagList ?? [];
    const used: string[] = [];
    return choices.filter(({ area }) => {
      if (shareClingTag(list, area.pv.tags, used)) return false;
      used.push(...area.pv.tags);
      return true;
    });
  }

  /** Takes as much as all slots have, up to `wanted` logical extents. */
  #take(wanted: number): number {
    const { areaCount, areaMultiple } = this.#request;
    const choices = this.#slots.slice(0, areaCount).filter((choice) => choice !== undefined);
    if (choices.length < areaCount) return 0;
    const length = Math.min(Math.floor(wanted / areaMultiple), ...choices.map(({ used }) => used));
    if (length === 0) return 0;
    const areas = choices.map(({ area }, slot) => {
      this.#used[slot]?.add(area.pv.label);
      const place = { name: area.pv.label, extent: area.start };
      area.pv.consume(area, length);
      return place;
    });
    this.#rows.push({ length, areas });
    return length * areaMultiple;
  }
}

function follows({ name, extent, length }: Neighbour, { pv, start }: FreeArea): boolean {
  return pv.label === name && start === extent + length;
}

function isOnSamePv({ name }: Neighbour, { pv }: FreeArea): boolean {
  return pv.label === name;
}

/** The PV areas below the first or last segment of an LV, through the LVs that it lies on. */
function neighboursOf(vg: VolumeGroupText, lv: LogicalVolumeText, which: 'first' | 'last'): readonly Neighbour[] {
  const segment = lv.segments.at(which === 'first' ? 0 : -1);
  if (segment === undefined) return [];
  const { lvs, pvs } = relationsOf(vg);
  const length = areaExtents(segment);
  return segmentAreas(segment).flatMap((area): readonly Neighbour[] => {
    if (pvs.has(area.name)) return [{ ...area, length }];
    const below = lvs.get(area.name)?.lv;
    // A text that passed validation has no cycles.
    return below === undefined ? [] : neighboursOf(vg, below, which);
  });
}

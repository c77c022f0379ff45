/**
 * The free space of the PVs that an allocation may use, as runs of extents that shrink while they are handed out.
 *
 * Invariants
 *  - The areas of a PV are ordered largest first, older ones first among equals: the allocator looks at the largest area first.
 *  - An area that is only reserved keeps its extents, and moves in the order by what is left of it; `release` undoes that.
 *
 * Source: LVM2's pv_map (lib/metadata/pv_map.c); the order matters, since it decides where volumes are put.
 */
import type { PvAllocation } from '../allocation-map.ts';
import type { CandidatePv } from './request.ts';

/** A run of free extents. */
export interface FreeArea {
  readonly pv: FreePv;
  start: number;
  count: number;
  /** Extents that no choice of the current pass counts on. */
  unreserved: number;
}

export class FreePv {
  readonly label: string;
  readonly tags: readonly string[];
  readonly areas: FreeArea[] = [];
  #free = 0;
  /** Areas that are reserved in part or as a whole. */
  #reserved: FreeArea[] = [];

  constructor(label: string, tags: readonly string[]) {
    this.label = label;
    this.tags = tags;
  }

  /** Free extents. */
  get free(): number {
    return this.#free;
  }

  add(start: number, count: number): void {
    this.#insert({ pv: this, start, count, unreserved: count }, count);
  }

  /** Takes `count` extents from the low end of `area` for good. */
  consume(area: FreeArea, count: number): void {
    this.#remove(area);
    if (count >= area.count) return;
    area.start += count;
    area.count -= count;
    area.unreserved = area.count;
    this.#insert(area, area.count);
  }

  /** Counts on up to `count` extents of `area`; gives how many there were. */
  reserve(area: FreeArea, count: number): number {
    if (area.unreserved === area.count) this.#reserved.push(area);
    if (count >= area.unreserved) {
      const all = area.unreserved;
      area.unreserved = 0;
      return all;
    }
    area.unreserved -= count;
    this.#move(area);
    return count;
  }

  /** Forgets all reservations. Areas go back to their place one by one, from the front of the order. */
  release(): void {
    const [only, ...more] = this.#reserved;
    this.#reserved = [];
    if (only === undefined) return;
    if (more.length === 0) {
      this.#giveBack(only);
      return;
    }
    for (let i = 0; i < this.areas.length;) {
      const area = this.areas[i++];
      if (area === undefined || area.unreserved === area.count) continue;
      this.#giveBack(area);
      i = this.areas.indexOf(area) + 1;
    }
  }

  /** An area that was consumed since has no reservation any more. */
  #giveBack(area: FreeArea): void {
    if (area.unreserved === area.count || !this.areas.includes(area)) return;
    area.unreserved = area.count;
    this.#move(area);
  }

  #move(area: FreeArea): void {
    this.#remove(area);
    this.#insert(area, area.unreserved);
  }

  #remove(area: FreeArea): void {
    this.areas.splice(this.areas.indexOf(area), 1);
    this.#free -= area.count;
  }

  #insert(area: FreeArea, size: number): void {
    const at = this.areas.findIndex((other) => size > other.count);
    if (at < 0) this.areas.push(area);
    else this.areas.splice(at, 0, area);
    this.#free += area.count;
  }
}

/** The free space of the candidates, within their ranges, in their order. */
export function freeSpace(
  candidates: readonly CandidatePv[],
  allocations: ReadonlyMap<string, PvAllocation>,
): readonly FreePv[] {
  const pvs = new Map<string, FreePv>();
  for (const { label, tags, ranges } of candidates) {
    const allocation = allocations.get(label);
    if (allocation === undefined) continue;
    let pv = pvs.get(label);
    if (pv === undefined) pvs.set(label, (pv = new FreePv(label, tags)));
    for (const { start, count } of ranges ?? [{ start: 0, count: allocation.total }]) {
      for (const free of freeWithin(allocation, start, start + count)) pv.add(free.start, free.count);
    }
  }
  return [...pvs.values()];
}

/** Free runs of a PV between two extents, the second one excluded. */
export function freeWithin(
  allocation: PvAllocation,
  start: number,
  end: number,
): readonly { readonly start: number; readonly count: number }[] {
  return allocation.segments.flatMap((segment) => {
    if (segment.owner !== null) return [];
    const from = Math.max(start, segment.startPe);
    const to = Math.min(end, segment.startPe + segment.length);
    return to > from ? [{ start: from, count: to - from }] : [];
  });
}

/** Free extents of the candidates, within their ranges (LVM2's %PVS). */
export function freeExtentsOf(
  candidates: readonly CandidatePv[],
  allocations: ReadonlyMap<string, PvAllocation>,
): number {
  return freeSpace(candidates, allocations).reduce((sum, pv) => sum + pv.free, 0);
}

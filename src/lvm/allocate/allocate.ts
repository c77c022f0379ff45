/**
 * Where new extents of an LV go: LVM2's policies, tried from the strictest to the one asked for.
 *
 *     contiguous      one piece, right after the LV's last segment if it has one
 *     cling           on the PVs that the LV uses already
 *     cling_by_tags   or on PVs that share a tag with them
 *     normal          anywhere, but areas side by side on different PVs
 *     anywhere        side by side on one PV too
 *
 * Each policy takes what it can and leaves the rest to the next; `contiguous` as the policy asked for means all in one piece.
 *
 * Invariants
 *  - Pure: what is allocated was free in the text that was given, and the text is not changed.
 *  - Refusals are LVM2's words. Placement is LVM2's (the tests compare it with lvcreate and lvextend).
 *
 * Source: behaviour of lvcreate/lvextend 2.03.16; formats note §3 (lib/metadata/lv_manip.c names the policies).
 */
import { allocationMapOf } from '../allocation-map.ts';
import { CommandError } from '../edit/errors.ts';
import { segmentAreas } from '../references.ts';
import { freeSpace, type FreePv } from './free-areas.ts';
import type { AllocatedRow, Allocation, AllocationRequest, ConcretePolicy } from './request.ts';
import { type Constraints, Search } from './search.ts';

const POLICIES: readonly ConcretePolicy[] = ['contiguous', 'cling', 'cling_by_tags', 'normal', 'anywhere'];

/** Finds the extents. Throws CommandError (5) if they are not there. */
export function allocate(request: AllocationRequest): Allocation {
  const { areaMultiple, extents } = request;
  if (areaMultiple > 1 && extents % areaMultiple !== 0) {
    throw new CommandError(`Number of extents requested (${extents}) needs to be divisible by ${areaMultiple}.`);
  }
  return new Attempt(request).run();
}

class Attempt {
  readonly #request: AllocationRequest;
  readonly #free: readonly FreePv[];
  readonly #rows: AllocatedRow[] = [];
  readonly #search: Search;
  /** Logical extents. */
  #found = 0;

  constructor(request: AllocationRequest) {
    this.#request = request;
    this.#free = freeSpace(request.candidates, allocationMapOf(request.vg).pvs);
    this.#search = new Search(request, this.#free, this.#rows);
  }

  run(): Allocation {
    const { extents, policy } = this.#request;
    const canSplit = policy !== 'contiguous';
    for (const step of this.#steps()) {
      const before = this.#found;
      this.#checkFree();
      this.#tryPolicy(this.#constraints(step, canSplit));
      if (this.#found === extents || (!canSplit && this.#found !== before)) break;
    }
    this.#checkFound(canSplit);
    return { rows: this.#rows, extents: this.#found };
  }

  /** `cling` includes sharing tags, where there is a list of them. */
  #steps(): readonly ConcretePolicy[] {
    const { policy, settings } = this.#request;
    const last = policy === 'cling' ? 'cling_by_tags' : policy;
    const steps = POLICIES.slice(0, POLICIES.indexOf(last) + 1);
    return settings.clingTagList === null ? steps.filter((step) => step !== 'cling_by_tags') : steps;
  }

  #freeExtents(): number {
    return this.#free.reduce((sum, pv) => sum + pv.free, 0);
  }

  #checkFree(): void {
    const { approximate, extents, areaCount, areaMultiple } = this.#request;
    if (approximate) return;
    const needed = Math.floor(((extents - this.#found) * areaCount) / areaMultiple);
    const available = this.#freeExtents();
    if (needed <= available) return;
    throw new CommandError(`Insufficient free space: ${needed} extents needed, but only ${available} available`);
  }

  #checkFound(canSplit: boolean): void {
    const { approximate, extents, areaCount, areaMultiple, lvName } = this.#request;
    if (this.#found === extents) return;
    const kind = canSplit ? '' : 'contiguous ';
    if (!approximate) {
      const more = Math.floor(((extents - this.#found) * areaCount) / areaMultiple);
      throw new CommandError(
        `Insufficient suitable ${kind}allocatable extents for logical volume ${lvName}: ${more} more required`,
      );
    }
    if (this.#found === 0 && this.#request.extending === null) {
      throw new CommandError(`Insufficient suitable ${kind}allocatable extents found for logical volume ${lvName}.`);
    }
  }

  #constraints(policy: ConcretePolicy, canSplit: boolean): Constraints {
    const { extending, areaCount, settings } = this.#request;
    const last = extending?.segments.at(-1);
    const sameAreaCount = last !== undefined && segmentAreas(last).length === areaCount;
    const cling = policy === 'cling' || policy === 'cling_by_tags';
    const contiguousToLast = sameAreaCount && policy === 'contiguous';
    const clingToLv = sameAreaCount && cling;
    const clingToAllocated =
      (!sameAreaCount && cling) ||
      (settings.maximiseCling && policy === 'normal' && this.#found !== this.#request.extents);
    return {
      policy,
      contiguousToLast,
      clingToLv,
      clingToAllocated,
      clingByTags: policy === 'cling_by_tags',
      sameAreaCount,
      positional: contiguousToLast || cling,
      oneAreaPerTag: policy === 'contiguous' && settings.clingTagList !== null,
      canSplit,
    };
  }

  #tryPolicy(constraints: Constraints): void {
    const { extents, settings, approximate } = this.#request;
    const { policy } = constraints;
    for (;;) {
      const { wanted, parallel } = this.#nextPiece();
      const found = this.#search.find(constraints, wanted, parallel);
      this.#found += found;
      if (found === 0) {
        // Cling may settle for the right PVs in the wrong order, normal for other PVs than those used so far.
        if (settings.maximiseCling && constraints.clingToLv && constraints.positional) constraints.positional = false;
        else if (policy === 'normal' && constraints.clingToAllocated) constraints.clingToAllocated = false;
        else return;
      } else if (settings.maximiseCling && policy === 'normal') constraints.clingToAllocated = true;
      if (policy === 'contiguous' || this.#found === extents || !constraints.canSplit) return;
      if (approximate && this.#freeExtents() === 0) return;
    }
  }

  /** How much may be allocated in one go, and away from which PVs. */
  #nextPiece(): { readonly wanted: number; readonly parallel: readonly string[] } {
    const { extents, areaMultiple, avoid = [], extending } = this.#request;
    const left = extents - this.#found;
    const existing = extending?.segments.reduce((sum, segment) => sum + segment.extentCount, 0) ?? 0;
    const next = existing + Math.floor(this.#found / areaMultiple);
    const beside = avoid.find(({ startExtent, extentCount }) => next < startExtent + extentCount);
    if (beside === undefined) return { wanted: left, parallel: [] };
    const until = (beside.startExtent + beside.extentCount - existing) * areaMultiple - this.#found;
    return { wanted: Math.min(left, until), parallel: beside.pvs };
  }
}

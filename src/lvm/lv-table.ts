/**
 * The table of an LV whose segments lie on PVs, or on a pvmove LV in between.
 *
 *     LV on pvmove0, three steps:   done                  in progress                          to come
 *     line                          linear, destination   linear over the layer VG/pvmove0:    linear, source
 *                                                         a mirror, from source to destination
 *
 * As long as a step is not done in the metadata, its source holds every acknowledged write, mirrored or not: so the table may be
 * loaded, replaced and lost at any moment of a move.
 *
 * Invariants
 *  - A step is mirrored only if asked for, and if both of its devices are there and take writes; else it is served from the source.
 *    Of a move that is not atomic only the first step that is not done is in progress.
 *  - A stripe that is not one run of one PV is a layer of its own, so every area of a segment is one device of its line.
 *  - What a table needs and is not there is told (`missing`, `problem`), and then the table is not to be used.
 */
import assert from 'node:assert/strict';
import type { Layer, LinearParams, MirrorParams, StripedParams, TableLine } from '../dm/table.ts';
import type { Segment, SegmentArea } from '../ondisk/metadata.ts';
import type { PhysicalVolume, VolumeGroup } from './model.ts';
import { moveLayerName } from './pvmove/live-status.ts';
import { movesOf, type PvMove } from './pvmove/moves.ts';
import { areaExtents } from './references.ts';
import { isPvmove } from './relations.ts';

/** `mirror`: what is copied by a move is copied by these tables. `source`: nothing is. */
export type MoveTables = 'mirror' | 'source';

/** Used where the metadata has no region size: LVM2's default, in sectors. */
const DEFAULT_REGION_SECTORS = 4096;
const SECTOR_BYTES = 512;

/** What the tables of all LVs of a VG have in common. */
export interface TableSource {
  readonly group: VolumeGroup;
  /** By label. */
  readonly pvs: ReadonlyMap<string, PhysicalVolume>;
  /** By the name of the pvmove LV. */
  readonly moves: ReadonlyMap<string, PvMove>;
  readonly mode: MoveTables;
  /** What lies on PVs that are missing is errors. */
  readonly partial?: boolean;
}

/** Throws CommandError if a move in the VG is of a form that nobody could go on with. */
export function tableSource(group: VolumeGroup, mode: MoveTables): TableSource {
  const moving = group.vg.logicalVolumes.some(isPvmove);
  return {
    group,
    pvs: new Map(group.pvs.map((pv) => [pv.text?.label ?? '', pv])),
    moves: new Map(moving ? movesOf(group.vg).map((move) => [move.lv.name, move]) : []),
    mode,
  };
}

/** A run of an area on one PV, or of a step in progress. */
interface Run {
  /** Extents. */
  readonly length: number;
  readonly place: SegmentArea;
  /** Set for a step in progress: where it is copied to. */
  readonly copy?: { readonly to: SegmentArea; readonly move: PvMove };
}

export class LvTable {
  readonly lines: TableLine[] = [];
  /** Devices that the lines name, by path. */
  readonly used: Map<string, PhysicalVolume> = new Map();
  /** Uuids of PVs that are not there. */
  readonly missing: Set<string> = new Set();
  /** What else is wrong (a device that ends too early), for people; null: nothing. */
  problem: string | null = null;
  readonly #source: TableSource;

  constructor(source: TableSource) {
    this.#source = source;
  }

  /** Appends the lines of a segment: striped, with areas on PVs or pvmove LVs; error; zero. */
  add(segment: Segment): void {
    const extentSize = this.#source.group.vg.extentSizeSectors;
    const start = segment.startExtent * extentSize;
    const length = segment.extentCount * extentSize;
    if (segment.type === 'error' || segment.type === 'zero') {
      this.lines.push({ start, length, target: segment.type, params: {} });
      return;
    }
    assert(segment.type === 'striped');
    const [only, more] = segment.areas;
    if (only !== undefined && more === undefined) {
      this.#linear(start, this.#runs(only, segment.extentCount));
      return;
    }
    assert(segment.stripeSizeSectors !== undefined);
    const stripes = segment.areas.map((area) => this.#whole(area, areaExtents(segment)));
    const params: StripedParams = { chunkSize: segment.stripeSizeSectors, stripes };
    this.lines.push({ start, length, target: 'striped', params });
  }

  /** Where an area's bytes are, in order. */
  #runs({ name, extent }: SegmentArea, length: number): readonly Run[] {
    const move = this.#source.moves.get(name);
    if (move === undefined) return [{ length, place: { name, extent } }];
    const current = move.steps.find((step) => !step.done);
    const runs = move.steps
      .filter((step) => step.start < extent + length && extent < step.start + step.length)
      .map((step): Run => {
        const from = Math.max(extent, step.start);
        const ahead = from - step.start;
        const count = Math.min(extent + length, step.start + step.length) - from;
        const source = { name: step.from.name, extent: step.from.extent + ahead };
        const to = { name: step.to.name, extent: step.to.extent + ahead };
        if (step.done) return { length: count, place: to };
        const copied = (move.atomic || step === current) && this.#canCopy(source, to);
        return copied ? { length: count, place: source, copy: { to, move } } : { length: count, place: source };
      });
    if (runs.reduce((sum, run) => sum + run.length, 0) !== length) {
      this.problem ??= `it uses extents of ${name} that do not exist`;
    }
    return runs;
  }

  #canCopy(...areas: readonly SegmentArea[]): boolean {
    return (
      this.#source.mode === 'mirror' &&
      areas.every(({ name }) => this.#source.pvs.get(name)?.found?.device.readOnly === false)
    );
  }

  #linear(start: number, runs: readonly Run[]): void {
    let at = start;
    for (const run of runs) {
      const length = this.#sectors(run);
      if (this.#isError(run.place)) {
        this.lines.push({ start: at, length, target: 'error', params: {} });
      } else {
        const params: LinearParams =
          run.copy === undefined
            ? this.#place(run.place, run.length)
            : { device: this.#layer([run], run.copy.move), offset: 0 };
        this.lines.push({ start: at, length, target: 'linear', params });
      }
      at += length;
    }
  }

  /** An area as one device. */
  #whole(area: SegmentArea, extents: number): LinearParams {
    const runs = this.#runs(area, extents);
    const [only, more] = runs;
    if (only !== undefined && more === undefined && only.copy === undefined) {
      if (!this.#isError(only.place)) return this.#place(only.place, only.length);
      const table: TableLine[] = [{ start: 0, length: this.#sectors(only), target: 'error', params: {} }];
      return { device: { name: `${this.#source.group.vg.name}/${area.name}-missing`, table }, offset: 0 };
    }
    const move = this.#source.moves.get(area.name);
    assert(move !== undefined, 'an area on a PV is one run');
    return { device: this.#layer(runs, move), offset: 0 };
  }

  /** `move`: whose runs these are. */
  #layer(runs: readonly Run[], { lv }: PvMove): Layer {
    const table: TableLine[] = [];
    let start = 0;
    for (const run of runs) {
      const length = this.#sectors(run);
      if (this.#isError(run.place)) {
        table.push({ start, length, target: 'error', params: {} });
      } else if (run.copy === undefined) {
        table.push({ start, length, target: 'linear', params: this.#place(run.place, run.length) });
      } else {
        table.push({ start, length, target: 'mirror', params: this.#mirror(run, run.copy, length) });
      }
      start += length;
    }
    return { name: moveLayerName(this.#source.group.vg.name, lv.name), table };
  }

  #mirror({ length, place }: Run, { to, move }: NonNullable<Run['copy']>, sectors: number): MirrorParams {
    const mirrors = [this.#place(place, length), this.#place(to, length)];
    return { log: { type: 'core', regionSize: regionSizeOf(move, sectors) }, mirrors };
  }

  #sectors({ length }: Run): number {
    return length * this.#source.group.vg.extentSizeSectors;
  }

  /** Whether errors stand for what is on this PV. */
  #isError({ name }: SegmentArea): boolean {
    const pv = this.#source.pvs.get(name);
    return this.#source.partial === true && pv !== undefined && (pv.found === null || pv.missing);
  }

  /** The place on a device of `extents` of a PV, all of which must be there. */
  #place({ name, extent }: SegmentArea, extents: number): LinearParams {
    const { group, pvs } = this.#source;
    const pv = pvs.get(name);
    assert(pv?.text !== undefined, `${name} is a PV of the VG`);
    const { peStartSectors } = pv.text;
    const offset = peStartSectors + extent * group.vg.extentSizeSectors;
    if (pv.found === null || pv.missing) {
      this.missing.add(pv.uuid);
      return { device: name, offset };
    }
    const { path, sizeBytes } = pv.found.device;
    const neededBytes = (offset + extents * group.vg.extentSizeSectors) * SECTOR_BYTES;
    if (neededBytes > sizeBytes) {
      this.problem ??= `device ${path} has ${sizeBytes} bytes, the volume reaches to byte ${neededBytes} of it: was it resized?`;
    }
    this.used.set(path, pv);
    return { device: path, offset };
  }
}

/** A power of two that is no larger than the line, as the mirror target wants it. */
function regionSizeOf({ lv }: PvMove, sectors: number): number {
  const [segment] = lv.segments;
  const wanted = (segment?.type === 'mirror' ? segment.regionSizeSectors : undefined) ?? DEFAULT_REGION_SECTORS;
  return 2 ** Math.floor(Math.log2(Math.max(2, Math.min(wanted, sectors))));
}

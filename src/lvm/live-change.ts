/**
 * What a plan means for the volumes that a daemon serves: which go away, which lose extents, which are new and active.
 *
 * Invariants
 *  - A volume that is not named as leaving keeps its uuid, and so its clients.
 *  - A volume that maps, itself or through what it is made of, any extent before the plan that it does not map after it is losing.
 *  - A new volume is active only if the command says so, as in LVM2: nothing is activated by the way.
 *  - Pure.
 */
import { randomUUID } from 'node:crypto';
import { resolve } from 'node:path';
import type { LogicalVolumeText, VolumeGroupText } from '../ondisk/metadata.ts';
import { asServed, mergesOf } from './deferred-merges.ts';
import type { Plan } from './edit/plan.ts';
import { type LiveChange, type LiveDecision, type LiveGroup, type LiveVolumeRef, volumeId } from './live.ts';
import { areaExtents, segmentAreas } from './references.ts';
import { relationsOf } from './relations.ts';

/** What a command says of volumes besides its plan. */
export interface LiveWishes {
  /** Names of new LVs that are to be active from now on. */
  readonly activate?: readonly string[];
  /** Names of LVs that get another content: refused while somebody uses them. */
  readonly unused?: readonly string[];
  /** Names of origins whose merge waits for their next activation. */
  readonly deferMerges?: readonly string[];
  /** Clients of volumes that go away are disconnected. */
  readonly force: boolean;
}

/** Null: the plan writes no VG. */
export function liveChangeOf(plan: Plan, wishes: LiveWishes): LiveChange | null {
  const { activate = [], unused = [], deferMerges = [], force } = wishes;
  const before = plan.before?.vg ?? null;
  const vg = plan.after ?? before;
  if (vg === null) return null;
  const deferred = mergesOf(vg)
    .filter(({ originName }) => deferMerges.includes(originName))
    .map(({ origin, cow }) => ({ origin, cow }));
  const waiting = new Set(deferred.map(({ origin }) => origin));
  const after = plan.after === null ? null : asServed(plan.after, (id) => waiting.has(id));
  const group = liveGroupOf(plan);
  return {
    key: randomUUID(),
    groups: group === null ? [] : [group],
    joining: joiningOf(plan),
    leaving: before === null ? [] : leavingOf(before, after),
    losing: before === null || after === null ? [] : losingOf(before, after),
    unused: refsOf(before ?? vg, unused),
    deferred,
    decisions: after === null ? [] : decisionsOf(before, after, new Set(activate)),
    force,
  };
}

/** The VG that a plan writes, and its sequence numbers; null: it writes none. */
export function liveGroupOf({ before, after }: Plan): LiveGroup | null {
  const vg = after ?? before?.vg ?? null;
  if (vg === null) return null;
  const seqnoBefore = before?.vg.seqno ?? null;
  return {
    id: before?.vg.id ?? vg.id,
    name: vg.name,
    seqnoBefore,
    seqnoAfter: after === null ? null : (seqnoBefore ?? after.seqno - 1) + 1,
  };
}

function joiningOf({ labels, joining = [] }: Plan): readonly string[] {
  const devices = [...labels.map(({ device }) => device), ...joining.map(({ device }) => device)];
  return [...new Set(devices.map(({ path }) => resolve(path)))];
}

/** The change as it is while its new volumes are not fit to be served: nothing new is active. */
export function withoutNew(change: LiveChange): LiveChange {
  return { ...change, decisions: change.decisions.map(({ volume }) => ({ volume, active: false })) };
}

function refsOf(vg: VolumeGroupText, names: readonly string[]): readonly LiveVolumeRef[] {
  const wanted = new Set(names);
  return vg.logicalVolumes.filter(({ name }) => wanted.has(name)).map((lv) => refOf(vg, lv));
}

function refOf(vg: VolumeGroupText, lv: LogicalVolumeText): LiveVolumeRef {
  return { id: volumeId(vg, lv), name: `${vg.name}/${lv.name}` };
}

/** Visible LVs by their ids. */
function served(vg: VolumeGroupText | null): ReadonlyMap<string, LogicalVolumeText> {
  if (vg === null) return new Map();
  const visible = [...relationsOf(vg).lvs.values()].filter((facts) => facts.visible);
  return new Map(visible.map(({ lv }) => [volumeId(vg, lv), lv]));
}

function leavingOf(before: VolumeGroupText, after: VolumeGroupText | null): readonly LiveVolumeRef[] {
  const staying = served(after);
  return [...served(before)].flatMap(([id, lv]) => (staying.has(id) ? [] : [refOf(before, lv)]));
}

function decisionsOf(
  before: VolumeGroupText | null,
  after: VolumeGroupText,
  active: ReadonlySet<string>,
): readonly LiveDecision[] {
  const known = served(before);
  return [...served(after)].flatMap(([id, lv]) =>
    known.has(id) ? [] : [{ volume: refOf(after, lv), active: active.has(lv.name) }],
  );
}

function losingOf(before: VolumeGroupText, after: VolumeGroupText): readonly LiveVolumeRef[] {
  // Edits keep what they don't change, so that most changes are seen to touch no extent at all.
  const old = new Map(before.logicalVolumes.map((lv) => [lv.id, lv.segments]));
  const moved = before.logicalVolumes.length !== after.logicalVolumes.length;
  if (!moved && after.logicalVolumes.every((lv) => old.get(lv.id) === lv.segments)) return [];
  const staying = served(after);
  const extentsBefore = new Extents(before);
  const extentsAfter = new Extents(after);
  return [...served(before)].flatMap(([id, lv]) => {
    const now = staying.get(id);
    if (now === undefined || covers(extentsAfter.of(now.name), extentsBefore.of(lv.name))) return [];
    return [refOf(before, lv)];
  });
}

/** Extents of one PV: from `start` up to `end`, which is not among them. */
interface Run {
  readonly start: number;
  readonly end: number;
}
type Runs = ReadonlyMap<string, readonly Run[]>;

/** What LVs map on PVs, by themselves and through other LVs. */
class Extents {
  readonly #vg: VolumeGroupText;
  readonly #pvIds: ReadonlyMap<string, string>;

  constructor(vg: VolumeGroupText) {
    this.#vg = vg;
    this.#pvIds = new Map(vg.physicalVolumes.map((pv) => [pv.label, pv.id]));
  }

  /** By PV uuid, in order, no two of them touching. */
  of(name: string): Runs {
    const found = new Map<string, Run[]>();
    const { lvs } = relationsOf(this.#vg);
    const seen = new Set<string>();
    const pending = [name];
    for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
      const facts = seen.has(next) ? undefined : lvs.get(next);
      seen.add(next);
      if (facts === undefined) continue;
      this.#addOwn(facts.lv, found);
      pending.push(...facts.uses.map((use) => use.name));
      if (facts.snapshot !== null) pending.push(facts.snapshot.origin);
    }
    return new Map([...found].map(([pv, runs]) => [pv, merged(runs)]));
  }

  #addOwn(lv: LogicalVolumeText, found: Map<string, Run[]>): void {
    for (const segment of lv.segments) {
      for (const { name, extent } of segmentAreas(segment)) {
        const pv = this.#pvIds.get(name);
        if (pv === undefined) continue;
        const run = { start: extent, end: extent + areaExtents(segment) };
        const runs = found.get(pv);
        if (runs === undefined) found.set(pv, [run]);
        else runs.push(run);
      }
    }
  }
}

function merged(runs: readonly Run[]): readonly Run[] {
  const result: Run[] = [];
  for (const run of runs.toSorted((a, b) => a.start - b.start)) {
    const last = result.at(-1);
    if (last !== undefined && run.start <= last.end) {
      result[result.length - 1] = { start: last.start, end: Math.max(last.end, run.end) };
    } else result.push(run);
  }
  return result;
}

/** Whether every extent of `inner` is one of `outer`. */
function covers(outer: Runs, inner: Runs): boolean {
  return [...inner].every(([pv, runs]) => {
    const around = outer.get(pv) ?? [];
    return runs.every((run) => around.some(({ start, end }) => start <= run.start && run.end <= end));
  });
}

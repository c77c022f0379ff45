/**
 * LV -> device-mapper table: which volumes of a VG can be served, how, and why the others can't.
 *
 * Invariants
 *  - Every visible LV has exactly one entry; hidden LVs (parts of others) have none and are never served.
 *  - An active entry's table says the whole truth about the LV's bytes. A volume whose content also depends on something
 *    that the table does not express (a cache) is inactive, or is served read-only where reading it plainly is right: the
 *    external origin of thin LVs.
 *  - No table touches a missing PV (asked for, it has errors in its place), or reaches past the end of a device.
 *  - Pure: devices are named by path, nothing is opened.
 */
import type { Table } from '../dm/table.ts';
import type { LogicalVolumeText, Segment, SegmentArea } from '../ondisk/metadata.ts';
import { useProblem } from './access.ts';
import type { HostContext } from './access.ts';
import {
  familyKey,
  isSnapshotFamily,
  neededSnapshots,
  originOfSnapshot,
  type PlainTable,
  snapshotFamilyTable,
  withoutLostSnapshots,
} from './activate-snapshots.ts';
import { CommandError } from './edit/errors.ts';
import { LvTable, type MoveTables, type TableSource, tableSource } from './lv-table.ts';
import type { PhysicalVolume, VolumeGroup } from './model.ts';
import { isComponentKind, segmentAreas } from './references.ts';
import { isPvmove, relationsOf, segmentTypeName } from './relations.ts';
import type { LvFacts, VgRelations } from './relations.ts';

export interface ActivationOptions {
  readonly host: HostContext;
  /** Activate LVs flagged ACTIVATION_SKIP too (`-K`). */
  readonly ignoreActivationSkip?: boolean;
  /** Activate LVs and VGs flagged NOAUTOACTIVATE too: somebody asked for them by name. */
  readonly ignoreNoAutoActivate?: boolean;
  /** Plan LVs of a VG with duplicate PVs too: they are active already, and the question is what their tables are. */
  readonly ignoreDuplicates?: boolean;
  /** Activate LVs of which PVs are missing too: their extents there are errors. */
  readonly partial?: boolean;
  /** Serve everything read-only. */
  readonly readOnly?: boolean;
  /** Whether LVs on a pvmove in progress copy what is moved while they are served. Default: source. */
  readonly moves?: MoveTables;
}

export type LvActivation = {
  readonly lv: LogicalVolumeText;
  /** "VG/LV" */
  readonly exportName: string;
  /** The LV with which it is activated and deactivated: the origin of a COW snapshot. */
  readonly follows?: LogicalVolumeText;
} & (ActiveLv | InactiveLv);

export interface ActiveLv {
  readonly active: true;
  readonly table: Table;
  /** Paths that the table names, each once. */
  readonly devices: readonly string[];
  readonly readOnly: boolean;
  /** Why it is read-only, for people; absent when it is not. */
  readonly note?: string;
  /** Export names of LVs that have to be active if this one is to be written: the snapshots of an origin. */
  readonly needs?: readonly string[];
  /** LVs with the same one share something in memory, so that one process has to serve them. */
  readonly shareKey?: string;
}
export interface InactiveLv {
  readonly active: false;
  /** For people: names the LV's type, the missing PV, the flag. */
  readonly reason: string;
}

/** What to do with each visible LV of a VG, in the text's order. */
export function activationPlan(group: VolumeGroup, options: ActivationOptions): readonly LvActivation[] {
  const relations = relationsOf(group.vg);
  const refusal = groupProblem(group, options);
  const tables = tablesOf(group, options);
  const plan: LvActivation[] = [];
  for (const facts of relations.lvs.values()) {
    if (!facts.visible) continue;
    const outcome = refusal === null ? activateLv({ group, relations, tables, options }, facts) : inactive(refusal);
    const origin = relations.lvs.get(originOfSnapshot(relations, facts) ?? '')?.lv;
    const follows = origin === undefined ? {} : { follows: origin };
    plan.push({ lv: facts.lv, exportName: `${group.vg.name}/${facts.name}`, ...follows, ...outcome });
  }
  return withoutLostSnapshots(plan);
}

/** Uuids of missing PVs that an LV needs, directly or through what it uses. */
export function missingPvsOf(group: VolumeGroup, name: string): readonly string[] {
  const relations = relationsOf(group.vg);
  const pvs = new Map(group.pvs.map((pv) => [pv.text?.label ?? '', pv]));
  return missingPvs(relations, pvs, name);
}

interface Context {
  readonly group: VolumeGroup;
  readonly relations: VgRelations;
  readonly tables: TableSource;
  readonly options: ActivationOptions;
}

/** A move that nobody could go on with keeps only the LVs on it from being served. */
function tablesOf(group: VolumeGroup, { moves = 'source', readOnly, partial = false }: ActivationOptions): TableSource {
  try {
    return { ...tableSource(group, readOnly === true ? 'source' : moves), partial };
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    return { ...tableSource({ ...group, vg: { ...group.vg, logicalVolumes: [] } }, 'source'), group };
  }
}

function groupProblem(group: VolumeGroup, options: ActivationOptions): string | null {
  const refused = useProblem(group.vg, options.host);
  if (refused !== null) return refused;
  if (group.hasDuplicates && options.ignoreDuplicates !== true)
    return `Cannot activate LVs in VG ${group.vg.name} while PVs appear on duplicate devices.`;
  if (group.vg.flags.includes('NOAUTOACTIVATE') && options.ignoreNoAutoActivate !== true) {
    return `volume group ${group.vg.name} is flagged NOAUTOACTIVATE`;
  }
  return null;
}

function activateLv(context: Context, facts: LvFacts): ActiveLv | InactiveLv {
  // A COW snapshot is active with its origin, whose flags count: without it the origin could take no writes.
  const flagged = context.relations.lvs.get(originOfSnapshot(context.relations, facts) ?? '') ?? facts;
  const problem = flagProblem(flagged.lv, context.options) ?? useProblemOf(facts);
  if (problem !== null) return inactive(problem);
  if (isSnapshotFamily(facts)) return activateSnapshotFamily(context, facts);
  const table = plainTable(context, facts, true);
  if (table.reason !== undefined) return inactive(table.reason);
  const { lines, used } = table;
  return { active: true, table: lines, devices: [...used.keys()], ...writability(context, facts, [...used.values()]) };
}

function activateSnapshotFamily(context: Context, facts: LvFacts): ActiveLv | InactiveLv {
  const { group, relations } = context;
  const family = { group, relations, plainTable: plainTable.bind(null, context) };
  const table = snapshotFamilyTable(family, facts);
  if (table.reason !== undefined) return inactive(table.reason);
  const { lines, used } = table;
  const needs = neededSnapshots(family, facts);
  return {
    active: true,
    table: lines,
    devices: [...used.keys()],
    ...writability(context, facts, [...used.values()]),
    ...(needs.length === 0 ? {} : { needs }),
    shareKey: familyKey(family, facts),
  };
}

/** The table of an LV's own segments, whatever else is made of it. */
function plainTable(context: Context, facts: LvFacts, takesPart: boolean): PlainTable {
  const unfit = typeProblem(context, facts);
  if (unfit !== null) return { reason: unfit };
  const table = new LvTable(takesPart ? context.tables : { ...context.tables, mode: 'source' });
  for (const segment of facts.lv.segments) table.add(segment);
  const { lines, missing, problem, used } = table;
  if (missing.size > 0) return { reason: missingMessage(context, [...missing]) };
  return problem === null ? { lines, used } : { reason: problem };
}

function inactive(reason: string): InactiveLv {
  return { active: false, reason };
}

function flagProblem(lv: LogicalVolumeText, options: ActivationOptions): string | null {
  if (lv.flags.includes('ACTIVATION_SKIP') && options.ignoreActivationSkip !== true) {
    return 'flagged ACTIVATION_SKIP';
  }
  if (lv.flags.includes('NOAUTOACTIVATE') && options.ignoreNoAutoActivate !== true) return 'flagged NOAUTOACTIVATE';
  return null;
}

/** Why what other LVs do with this one forbids serving it plainly. */
function useProblemOf(facts: LvFacts): string | null {
  if (isPvmove(facts.lv)) return 'it is the temporary LV of a pvmove, never served by itself';
  const part = facts.usedBy.find((use) => isComponentKind(use.kind) && use.kind !== 'snapshot-cow');
  return part === undefined ? null : `part of LV ${part.user} (${part.kind}), never served by itself`;
}

const PLAIN_TYPES: ReadonlySet<Segment['type']> = new Set<Segment['type']>(['striped', 'error', 'zero']);

function typeProblem(context: Context, facts: LvFacts): string | null {
  for (const segment of facts.lv.segments) {
    if (segment.type === 'unknown') return `unrecognised segment type ${segment.typeName}`;
    if (!PLAIN_TYPES.has(segment.type)) return `LV type ${segmentTypeName(segment)} is not supported yet`;
    if (segment.typeFlags.length > 0) return `segment type flag ${segment.typeFlags.join('+')} is not supported yet`;
    const { pvs, moves } = context.tables;
    const layer = segmentAreas(segment).find(({ name }) => !pvs.has(name) && !moves.has(name));
    if (layer !== undefined) return layerProblem(context, layer);
  }
  return facts.lv.segments.length === 0 ? 'it has no segments' : null;
}

function layerProblem(context: Context, area: SegmentArea): string {
  const below = context.relations.lvs.get(area.name)?.lv;
  if (below === undefined) return `LV area ${area.name} is neither a physical volume nor an LV`;
  const type = below.segments[0] === undefined ? 'unknown' : segmentTypeName(below.segments[0]);
  if (isPvmove(below)) return `on ${area.name}, a pvmove of a form that is not supported`;
  return `stacked on LV ${area.name} of type ${type}, which is not supported yet`;
}

/** Walks what an LV needs; each LV once, so shared parts and cycles cost nothing. */
function missingPvs(relations: VgRelations, pvs: ReadonlyMap<string, PhysicalVolume>, name: string): readonly string[] {
  const missing = new Set<string>();
  const seen = new Set<string>();
  const pending = [name];
  for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
    const facts = seen.has(next) ? undefined : relations.lvs.get(next);
    seen.add(next);
    if (facts === undefined) continue;
    for (const segment of facts.lv.segments) {
      for (const area of segmentAreas(segment)) {
        const pv = pvs.get(area.name);
        if (pv?.missing === true) missing.add(pv.uuid);
      }
    }
    pending.push(...facts.uses.map((use) => use.name));
    if (facts.snapshot !== null) pending.push(facts.snapshot.origin);
  }
  return [...missing];
}

function missingMessage(context: Context, uuids: readonly string[]): string {
  const described = uuids.map((uuid) => {
    const hint = context.group.pvs.find((pv) => pv.uuid === uuid)?.text?.device;
    return hint === undefined ? uuid : `${uuid} (last written to ${hint})`;
  });
  return `physical volume ${described.join(', ')} is missing`;
}

function writability(
  context: Context,
  facts: LvFacts,
  used: readonly PhysicalVolume[],
): { readonly readOnly: boolean; readonly note?: string } {
  const note = readOnlyReason(context, facts, used);
  return note === null ? { readOnly: false } : { readOnly: true, note };
}

function readOnlyReason(context: Context, facts: LvFacts, used: readonly PhysicalVolume[]): string | null {
  const thin = facts.usedBy.find((use) => use.kind === 'external-origin');
  if (thin !== undefined) return `read-only: external origin of thin LV ${thin.user}`;
  if (!facts.lv.status.includes('WRITE')) return 'read-only: the LV has no write permission';
  if (!context.group.vg.status.includes('WRITE')) return 'read-only: the volume group has no write permission';
  const device = used.find((pv) => pv.found?.device.readOnly === true)?.found?.device.path;
  if (device !== undefined) return `read-only: device ${device} is read-only`;
  return context.options.readOnly === true ? 'read-only: as asked for' : null;
}

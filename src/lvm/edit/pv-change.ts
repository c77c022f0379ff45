/**
 * pvchange: attributes of one PV, in a VG or not (facts: LVM2 tools/pvchange.c, lib/metadata/metadata.c).
 *
 * Invariants
 *  - A PV of a VG changes with its VG's metadata; an orphan's label is all there is to it.
 *  - Whether a PV's metadata areas are used follows the user's word: the VG's wanted number of copies follows it.
 */
import type { PhysicalVolumeText, VolumeGroupText } from '../../ondisk/metadata.ts';
import { labelOf } from '../pv-write.ts';
import type { LabelledDevice, PhysicalVolume, VolumeGroup } from '../model.ts';
import { CommandError } from './errors.ts';
import { emptyPlan, type Plan, type PlanMessage, type PvLabelWrite } from './plan.ts';
import { usedAreas } from './vg-extend.ts';

export interface PvChangeRequest {
  /** Null: not asked. */
  readonly allocatable: boolean | null;
  readonly addTags: readonly string[];
  readonly removeTags: readonly string[];
  /** Null: not asked. */
  readonly metadataIgnore: boolean | null;
  /** The new uuid, display form; null: not asked. */
  readonly uuid: string | null;
  /** Number of -f. */
  readonly force: number;
}

export interface PvChange {
  /** Null: there is nothing to change. */
  readonly plan: Plan | null;
  readonly messages: readonly PlanMessage[];
}

/** What the request comes down to for a PV; `group` is its VG, null for an orphan. Throws CommandError. */
export function changePv(group: VolumeGroup | null, pv: PhysicalVolume, request: PvChangeRequest): PvChange {
  const { found } = pv;
  if (found === null) throw new CommandError(`Can't change PV ${pv.uuid}: its device is missing.`);
  const { path } = found.device;
  try {
    const change = group === null ? changeOrphan(found, request) : changeMember(group, pv, found, request);
    return change.plan === null
      ? { ...change, messages: [...change.messages, says(`Physical volume ${path} not changed`)] }
      : change;
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    throw new CommandError([...error.lines, `Physical volume ${path} not changed`], 5, { cause: error });
  }
}

function says(text: string): PlanMessage {
  return { stream: 'stdout', when: 'after', text };
}

function warns(text: string): PlanMessage {
  return { stream: 'stderr', when: 'before', text };
}

function changed(path: string): PlanMessage {
  return says(`Physical volume "${path}" changed`);
}

function changeOrphan(found: LabelledDevice, request: PvChangeRequest): PvChange {
  const { path } = found.device;
  if (request.addTags.length + request.removeTags.length > 0) {
    throw new CommandError(`Can't change tag on Physical Volume ${path} not in volume group`);
  }
  if (found.inUse && request.force < 2) {
    throw new CommandError([
      `PV ${path} is used by a VG but its metadata is missing.`,
      `Can't change PV '${path}' without -ff.`,
    ]);
  }
  if (request.allocatable !== null) {
    throw new CommandError(`Allocatability not supported by orphan lvm2 format PV ${path}`);
  }
  if (request.metadataIgnore === null && request.uuid === null) return { plan: null, messages: [] };
  if (request.metadataIgnore !== null) checkIgnore(found, request.metadataIgnore);
  const uuid = request.uuid ?? found.uuid;
  const plan = {
    ...emptyPlan(null, null),
    labels: [relabelled(found, uuid)],
    ignoredAreas: new Map([[uuid, ignoredAreasOf(found, request.metadataIgnore)]]),
    messages: [changed(path)],
  };
  return { plan, messages: [] };
}

/** The PV's label with another uuid. */
function relabelled(found: LabelledDevice, uuid: string): PvLabelWrite {
  const label = { ...labelOf(found), uuid };
  return { device: found.device, found, label, kind: 'update', zeroHead: false, ignoredAreas: [], when: 'after' };
}

function ignoredAreasOf(found: LabelledDevice, ignore: boolean | null): readonly number[] {
  return found.metadataAreas.filter((area) => ignore ?? area.ignored).map((area) => area.index);
}

function checkIgnore(found: LabelledDevice, ignore: boolean): void {
  const name = `physical volume "${found.device.path}"`;
  const used = usedAreas([found]);
  if (ignore && used === 0) throw new CommandError(`Metadata areas on ${name} already ignored.`);
  if (!ignore && used === found.metadataAreas.length) {
    throw new CommandError(`Metadata areas on ${name} already marked as in-use.`);
  }
}

function changeMember(
  group: VolumeGroup,
  pv: PhysicalVolume,
  found: LabelledDevice,
  request: PvChangeRequest,
): PvChange {
  const messages: PlanMessage[] = [];
  const { text } = pv;
  if (text === undefined) throw new TypeError(`${pv.uuid} is no PV of ${group.vg.name}`);
  let after = withAllocatable(text, found.device.path, request.allocatable, messages);
  after = withTags(after, request);
  let vg = group.vg;
  const ignoredAreas = new Map<string, readonly number[]>();
  if (request.metadataIgnore !== null) {
    checkIgnore(found, request.metadataIgnore);
    const usedElsewhere = usedAreas(group.pvs.flatMap((other) => (other.found === found ? [] : (other.found ?? []))));
    if (request.metadataIgnore && usedElsewhere === 0) {
      throw new CommandError(`Cannot disable all metadata areas in volume group ${vg.name}.`);
    }
    vg = withCopies(group, found, request.metadataIgnore, messages);
    ignoredAreas.set(request.uuid ?? pv.uuid, ignoredAreasOf(found, request.metadataIgnore));
  }
  if (request.uuid !== null) {
    after = { ...after, id: request.uuid };
    if (!ignoredAreas.has(request.uuid)) ignoredAreas.set(request.uuid, ignoredAreasOf(found, null));
  }
  if (after === text && vg === group.vg && ignoredAreas.size === 0) return { plan: null, messages };
  const physicalVolumes = vg.physicalVolumes.map((other) => (other.id === pv.uuid ? after : other));
  const plan = {
    ...emptyPlan(group, { ...vg, physicalVolumes }),
    ignoredAreas,
    labels: request.uuid === null ? [] : [relabelled(found, request.uuid)],
    messages: [...messages, changed(found.device.path)],
  };
  return { plan, messages: [] };
}

function withAllocatable(
  pv: PhysicalVolumeText,
  path: string,
  allocatable: boolean | null,
  messages: PlanMessage[],
): PhysicalVolumeText {
  if (allocatable === null) return pv;
  const is = pv.status.includes('ALLOCATABLE');
  if (is === allocatable) {
    messages.push(warns(`Physical volume "${path}" is already ${allocatable ? '' : 'un'}allocatable.`));
    return pv;
  }
  const others = pv.status.filter((word) => word !== 'ALLOCATABLE');
  return { ...pv, status: allocatable ? ['ALLOCATABLE', ...others] : others };
}

function withTags(pv: PhysicalVolumeText, { addTags, removeTags }: PvChangeRequest): PhysicalVolumeText {
  return addTags.length + removeTags.length === 0 ? pv : { ...pv, tags: changeTags(pv.tags, addTags, removeTags) };
}

/** Tags with some added, then some removed; none is there twice. */
export function changeTags(
  tags: readonly string[],
  add: readonly string[],
  remove: readonly string[],
): readonly string[] {
  return [...new Set([...tags, ...add])].filter((tag) => !remove.includes(tag));
}

/** The VG whose wanted number of copies is what will be in use. */
function withCopies(
  group: VolumeGroup,
  found: LabelledDevice,
  ignore: boolean,
  messages: PlanMessage[],
): VolumeGroupText {
  const { vg } = group;
  const copies = vg.metadataCopies ?? 0;
  if (copies === 0) return vg;
  const others = group.pvs.flatMap((pv) => (pv.found === null || pv.found === found ? [] : pv.found));
  const used = usedAreas(others) + (ignore ? 0 : found.metadataAreas.length);
  messages.push(
    warns(`WARNING: Changing preferred number of copies of VG ${vg.name} metadata from ${copies} to ${used}`),
  );
  return { ...vg, metadataCopies: used };
}

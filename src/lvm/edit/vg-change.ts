/**
 * vgchange, vgrename, vgexport and vgimport: attributes of a volume group (facts: LVM2 tools/vgchange.c, vgrename.c, vgexport.c,
 * vgimport.c; lib/metadata/metadata.c vg_set_extent_size).
 *
 * Invariants
 *  - Changes are tried in LVM2's order; the first that is refused undoes all.
 *  - Another extent size changes numbers only: every byte of every LV stays where it is.
 */
import type {
  AllocationPolicy,
  LogicalVolumeText,
  PhysicalVolumeText,
  Segment,
  VolumeGroupText,
} from '../../ondisk/metadata.ts';
import { allocationMapOf } from '../allocation-map.ts';
import type { ScannedDevice, VolumeGroup } from '../model.ts';
import { blockSizeProblem } from './block-size.ts';
import { CommandError } from './errors.ts';
import { emptyPlan, type Plan, type PlanMessage } from './plan.ts';
import { changeTags } from './pv-change.ts';
import { extentSizeProblem, type MetadataCopies, noIgnoredAreas } from './vg-create.ts';
import { visibleVolumes } from './vg-remove.ts';

const MAX_EXTENTS = 2 ** 32 - 1;

/** Null (or an empty list): not asked. */
export interface VgChangeRequest {
  readonly maxLv: number | null;
  readonly maxPv: number | null;
  readonly resizeable: boolean | null;
  readonly autoactivation: boolean | null;
  readonly addTags: readonly string[];
  readonly removeTags: readonly string[];
  readonly extentSizeSectors: number | null;
  readonly id: string | null;
  readonly allocationPolicy: AllocationPolicy | null;
  readonly metadataCopies: MetadataCopies | null;
  /** A metadata profile's name; empty: none any more. */
  readonly profile: string | null;
}

/** Formats a size for messages. */
export type SizeText = (sectors: number) => string;

/** Throws CommandError with LVM2's reasons. */
export function changeVgPlan(group: VolumeGroup, request: VgChangeRequest, sizeText: SizeText): Plan {
  const messages: PlanMessage[] = [];
  const warn = (text: string): void => void messages.push({ stream: 'stderr', when: 'before', text });
  let { vg } = group;
  if (request.maxLv !== null) vg = withMaxLv(group, request.maxLv);
  if (request.maxPv !== null) vg = withMaxPv(vg, request.maxPv);
  if (request.resizeable !== null) vg = withResizeable(vg, request.resizeable);
  if (request.autoactivation !== null) vg = withAutoactivation(vg, request.autoactivation);
  const { addTags, removeTags } = request;
  if (removeTags.length > 0) vg = { ...vg, tags: changeTags(vg.tags, [], removeTags) };
  if (addTags.length > 0) vg = { ...vg, tags: changeTags(vg.tags, addTags, []) };
  if (request.extentSizeSectors !== null)
    vg = changeExtentSize(group, vg, request.extentSizeSectors, { sizeText, warn });
  if (request.id !== null) vg = { ...vg, id: request.id };
  if (request.allocationPolicy !== null) vg = withPolicy(vg, request.allocationPolicy);
  if (request.metadataCopies !== null) vg = withCopies(vg, request.metadataCopies, warn);
  if (request.profile !== null) vg = withProfile(vg, request.profile);
  messages.push({ stream: 'stdout', when: 'after', text: `Volume group "${vg.name}" successfully changed` });
  const plan = { ...emptyPlan(group, vg), messages };
  if (request.metadataCopies !== 'all') return plan;
  return { ...plan, ignoredAreas: noIgnoredAreas(group.pvs.flatMap((pv) => pv.found ?? [])) };
}

function checkResizeable(vg: VolumeGroupText, what: string): void {
  if (vg.status.includes('RESIZEABLE')) return;
  throw new CommandError(`Volume group "${vg.name}" must be resizeable to change ${what}`);
}

function withMaxLv(group: VolumeGroup, maxLv: number): VolumeGroupText {
  const { vg } = group;
  checkResizeable(vg, 'MaxLogicalVolume');
  const count = visibleVolumes(group).length;
  if (maxLv > 0 && maxLv < count) {
    throw new CommandError(`MaxLogicalVolume is less than the current number ${count} of LVs for ${vg.name}`);
  }
  return { ...vg, maxLv };
}

function withMaxPv(vg: VolumeGroupText, maxPv: number): VolumeGroupText {
  checkResizeable(vg, 'MaxPhysicalVolumes');
  const count = vg.physicalVolumes.length;
  if (maxPv > 0 && maxPv < count) {
    throw new CommandError(`MaxPhysicalVolumes is less than the current number ${count} of PVs for "${vg.name}"`);
  }
  return { ...vg, maxPv };
}

function withResizeable(vg: VolumeGroupText, resizeable: boolean): VolumeGroupText {
  if (vg.status.includes('RESIZEABLE') === resizeable) {
    throw new CommandError(`Volume group "${vg.name}" is already ${resizeable ? '' : 'not '}resizeable`);
  }
  const others = vg.status.filter((word) => word !== 'RESIZEABLE');
  const exported = others.filter((word) => word === 'EXPORTED');
  const rest = others.filter((word) => word !== 'EXPORTED');
  return { ...vg, status: resizeable ? [...exported, 'RESIZEABLE', ...rest] : others };
}

function withAutoactivation(vg: VolumeGroupText, on: boolean): VolumeGroupText {
  if (!vg.flags.includes('NOAUTOACTIVATE') === on) {
    throw new CommandError(`Volume group autoactivation is already ${on ? 'yes' : 'no'}.`);
  }
  const others = vg.flags.filter((word) => word !== 'NOAUTOACTIVATE');
  return { ...vg, flags: on ? others : [...others, 'NOAUTOACTIVATE'] };
}

function withPolicy(vg: VolumeGroupText, policy: AllocationPolicy): VolumeGroupText {
  const { allocationPolicy = 'normal', ...rest } = vg;
  if (policy === allocationPolicy) throw new CommandError(`Volume group allocation policy is already ${policy}`);
  if (policy === 'inherit') {
    throw new CommandError('Volume Group allocation policy cannot inherit from anything');
  }
  return policy === 'normal' ? rest : { ...rest, allocationPolicy: policy };
}

function withProfile({ profile: _profile, ...vg }: VolumeGroupText, name: string): VolumeGroupText {
  return name === '' ? vg : { ...vg, profile: name };
}

function withCopies(vg: VolumeGroupText, copies: MetadataCopies, warn: (text: string) => void): VolumeGroupText {
  if (copies === 'all') return { ...vg, metadataCopies: 0 };
  if ((vg.metadataCopies ?? 0) !== copies) return { ...vg, metadataCopies: copies };
  warn(`Number of metadata copies for VG ${vg.name} is already ${copies === 0 ? 'unmanaged' : copies}.`);
  return vg;
}

function changeExtentSize(
  group: VolumeGroup,
  vg: VolumeGroupText,
  sectors: number,
  { sizeText, warn }: { readonly sizeText: SizeText; readonly warn: (text: string) => void },
): VolumeGroupText {
  if (sectors > MAX_EXTENTS) {
    warn(`Physical extent size cannot be larger than ${sizeText(MAX_EXTENTS)}.`);
    return vg;
  }
  if (sectors === vg.extentSizeSectors) {
    warn(`Physical extent size of VG ${vg.name} is already ${sizeText(sectors)}.`);
    return vg;
  }
  const devices = group.pvs.flatMap(({ found }) => found?.device ?? []);
  return withExtentSize(vg, sectors, devices);
}

/** The VG with extents of another size. Throws CommandError where extents can't be expressed in the new ones, or `devices` have larger blocks. */
export function withExtentSize(
  vg: VolumeGroupText,
  sectors: number,
  devices: readonly ScannedDevice[] = [],
): VolumeGroupText {
  checkResizeable(vg, 'PE size');
  const problem = extentSizeProblem(sectors);
  if (problem !== null) throw new CommandError(problem);
  for (const device of devices) {
    const tooSmall = blockSizeProblem(vg.name, sectors, device);
    if (tooSmall === null) continue;
    throw new CommandError([tooSmall, `Failed to change physical extent size for VG ${vg.name}.`]);
  }
  const old = vg.extentSizeSectors;
  const total = vg.physicalVolumes.reduce((sum, pv) => sum + pv.peCount, 0);
  if (sectors > old && (total * old) % sectors !== 0) throw new CommandError('New extent size is not a perfect fit');
  const recount = (extents: number, what: string): number => {
    const size = extents * old;
    if (size % sectors !== 0) {
      throw new CommandError(`New size ${size} for ${what} not an exact number of new extents.`);
    }
    if (size / sectors > MAX_EXTENTS) {
      throw new CommandError(`New extent count ${size / sectors} for ${what} exceeds 32 bits.`);
    }
    return size / sectors;
  };
  const allocation = allocationMapOf(vg);
  const labels = new Set(vg.physicalVolumes.map(({ label }) => label));
  recount(total, vg.name);
  recount(allocation.free, `${vg.name} free space`);
  for (const { pv, allocated, segments } of allocation.pvs.values()) {
    const name = pv.device ?? pv.label;
    recount(pv.peCount, name);
    recount(allocated, `${name} allocated space`);
    for (const { owner, startPe, length } of segments) {
      if (owner !== null) continue;
      recount(startPe, `${name} PV segment start`);
      recount(length, `${name} PV segment length`);
    }
  }
  return {
    ...vg,
    extentSizeSectors: sectors,
    physicalVolumes: vg.physicalVolumes.map((pv): PhysicalVolumeText => ({
      ...pv,
      peCount: recount(pv.peCount, pv.device ?? pv.label),
    })),
    logicalVolumes: vg.logicalVolumes.map((lv): LogicalVolumeText => {
      recount(
        lv.segments.reduce((sum, { extentCount }) => sum + extentCount, 0),
        lv.name,
      );
      return { ...lv, segments: lv.segments.map((segment) => recounted(segment, lv.name, labels, recount)) };
    }),
  };
}

type Recount = (extents: number, what: string) => number;

function recounted(segment: Segment, name: string, labels: ReadonlySet<string>, recount: Recount): Segment {
  const common = {
    startExtent: recount(segment.startExtent, `${name} segment start`),
    extentCount: recount(segment.extentCount, `${name} segment length`),
  };
  if (segment.type === 'striped' || segment.type === 'mirror') {
    const length = segment.type === 'striped' ? segment.extentCount / segment.areas.length : segment.extentCount;
    recount(length, `${name} area length`);
    const areas = segment.areas.map((area) => {
      const kind = labels.has(area.name) ? 'pvseg' : 'area';
      return { ...area, extent: recount(area.extent, `${name} ${kind} start`) };
    });
    if (segment.type === 'striped') return { ...segment, ...common, areas };
    const { extentsMoved } = segment;
    if (extentsMoved === undefined) return { ...segment, ...common, areas };
    return { ...segment, ...common, areas, extentsMoved: recount(extentsMoved, `${name} extents moved`) };
  }
  if (segment.type === 'unknown')
    throw new CommandError(`Cannot recount the extents of ${name}: type ${segment.typeName}.`);
  if (segment.type === 'vdo') {
    return { ...segment, ...common, vdoOffset: recount(segment.vdoOffset, `${name} VDO offset`) };
  }
  return { ...segment, ...common };
}

/** vgrename. */
export function renameVgPlan(group: VolumeGroup, name: string, oldNameAsTyped: string): Plan {
  const text = `Volume group "${oldNameAsTyped}" successfully renamed to "${name}"`;
  return { ...emptyPlan(group, { ...group.vg, name }), messages: [{ stream: 'stdout', when: 'after', text }] };
}

/** vgexport: no host uses the VG until it is imported. */
export function exportVgPlan(group: VolumeGroup): Plan {
  const { systemId: _systemId, ...vg } = group.vg;
  const after = {
    ...vg,
    status: ['EXPORTED', ...vg.status],
    physicalVolumes: vg.physicalVolumes.map((pv) => ({ ...pv, status: [...pv.status, 'EXPORTED'] })),
  };
  return withMessage(emptyPlan(group, after), `Volume group "${vg.name}" successfully exported`);
}

/** vgimport: the VG is this host's. Throws CommandError. */
export function importVgPlan(group: VolumeGroup, systemId: string | null, partialToo: boolean): Plan {
  const { systemId: _systemId, ...vg } = group.vg;
  if (!vg.status.includes('EXPORTED')) throw new CommandError(`Volume group "${vg.name}" is not exported`);
  if (group.partial && !partialToo) throw new CommandError(`Volume group "${vg.name}" is partially missing`);
  const after = {
    ...vg,
    ...(systemId === null ? {} : { systemId }),
    status: vg.status.filter((word) => word !== 'EXPORTED'),
    physicalVolumes: vg.physicalVolumes.map((pv) => ({
      ...pv,
      status: pv.status.filter((word) => word !== 'EXPORTED'),
    })),
  };
  return withMessage(emptyPlan(group, after), `Volume group "${vg.name}" successfully imported`);
}

function withMessage(plan: Plan, text: string): Plan {
  return { ...plan, messages: [{ stream: 'stdout', when: 'after', text }] };
}

/** vgchange --systemid; null: the VG is anyone's. */
export function systemIdPlan(group: VolumeGroup, systemId: string | null): Plan {
  const { systemId: old = '', ...vg } = group.vg;
  if (old === (systemId ?? '')) throw new CommandError(`Volume Group system ID is already "${old}".`);
  const after = systemId === null ? vg : { ...vg, systemId };
  return withMessage(emptyPlan(group, after), `Volume group "${vg.name}" successfully changed`);
}

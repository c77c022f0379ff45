/**
 * vgcreate: a volume group from PVs that are in none (facts: LVM2 tools/vgcreate.c, lib/metadata/metadata.c).
 *
 * Invariant: what LVM2 leaves out of the text at its default (allocation policy normal, no metadata copies asked) is left out.
 */
import type { AllocationPolicy, VolumeGroupText } from '../../ondisk/metadata.ts';
import type { LabelledDevice } from '../model.ts';
import { CommandError } from './errors.ts';
import { emptyPlan, type Plan } from './plan.ts';
import { withMembers } from './vg-member.ts';

/** How many metadata areas are used; 0: unmanaged. all: every one, from then on unmanaged, as LVM2 stores it. */
export type MetadataCopies = number | 'all';

export interface VgCreateRequest {
  readonly name: string;
  readonly id: string;
  readonly extentSizeSectors: number;
  readonly maxLv: number;
  readonly maxPv: number;
  readonly allocationPolicy: AllocationPolicy;
  readonly tags: readonly string[];
  readonly metadataCopies: MetadataCopies;
  /** Null: none. */
  readonly systemId: string | null;
  /** A metadata profile's name. */
  readonly profile?: string;
  /** --setautoactivation n */
  readonly noAutoactivation: boolean;
}

/** Smallest unit of extent sizes that are no powers of 2: 128 KiB. */
const ODD_EXTENT_UNIT_SECTORS = 256;

/** Why LVM2 takes no such extents; null if it does. */
export function extentSizeProblem(sectors: number): string | null {
  if (sectors === 0) return 'Physical extent size may not be zero';
  if (Number.isInteger(Math.log2(sectors)) || sectors % ODD_EXTENT_UNIT_SECTORS === 0) return null;
  return 'Physical Extent size must be a multiple of 128.00 KiB when not a power of 2.';
}

export function createVgPlan(request: VgCreateRequest, joining: readonly LabelledDevice[]): Plan {
  const problem = extentSizeProblem(request.extentSizeSectors);
  if (problem !== null) throw new CommandError(problem);
  const { name, systemId } = request;
  const after = withMembers(newGroup(request), joining);
  const owner = systemId === null ? '' : ` with system ID ${systemId}`;
  return {
    ...emptyPlan(null, after),
    joining,
    ...(request.metadataCopies === 'all' ? { ignoredAreas: noIgnoredAreas(joining) } : {}),
    messages: [{ stream: 'stdout', when: 'after', text: `Volume group "${name}" successfully created${owner}` }],
  };
}

/** Every area of these PVs is to be used. */
export function noIgnoredAreas(devices: readonly LabelledDevice[]): ReadonlyMap<string, readonly number[]> {
  return new Map(devices.map(({ uuid }) => [uuid, []]));
}

function newGroup(request: VgCreateRequest): VolumeGroupText {
  const { allocationPolicy, metadataCopies, systemId } = request;
  return {
    name: request.name,
    id: request.id,
    seqno: 1,
    format: 'lvm2',
    status: ['RESIZEABLE', 'READ', 'WRITE'],
    flags: request.noAutoactivation ? ['NOAUTOACTIVATE'] : [],
    tags: request.tags,
    ...(systemId === null ? {} : { systemId }),
    extentSizeSectors: request.extentSizeSectors,
    maxLv: request.maxLv,
    maxPv: request.maxPv,
    ...(allocationPolicy === 'normal' ? {} : { allocationPolicy }),
    ...(request.profile === undefined ? {} : { profile: request.profile }),
    metadataCopies: metadataCopies === 'all' ? 0 : metadataCopies,
    physicalVolumes: [],
    logicalVolumes: [],
    historicalLogicalVolumes: [],
    extra: [],
  };
}

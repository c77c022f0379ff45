/**
 * Volume groups, from the generic tree to typed values (formats/lvm2.md §2.2-2.6; lvm2: lib/format_text/import_vsn1.c).
 *
 * Invariants
 *  - The first section of a text is its volume group; header fields may stand before or after it.
 *  - What LVM2 requires is required, what it tolerates is tolerated, and whatever isn't known is kept in `extra`.
 *  - An unknown word in `status` makes the whole VG unreadable, as for LVM2.
 *  - Every subsection of an LV is a segment, whatever its name; segments are sorted by their first extent.
 */
import { parseConfig } from './config-parser.ts';
import { FormatError, type Where } from './errors.ts';
import { Fields, MAX_U32, U32 } from './fields.ts';
import type {
  AllocationPolicy,
  ConfigNode,
  ConfigSection,
  HistoricalLogicalVolumeText,
  LogicalVolumeText,
  MetadataText,
  PhysicalVolumeText,
  TextHeader,
  VolumeGroupText,
} from './metadata.ts';
import { type FlaggedObject, isStatusWord, unlocked } from './vg-flags.ts';
import { optional, readSegment } from './vg-segments-read.ts';

export const CONTENTS = 'Text Format Volume Group';
export const FORMAT_VERSION = 1;
const POLICIES: readonly AllocationPolicy[] = ['contiguous', 'cling', 'cling_by_tags', 'normal', 'anywhere', 'inherit'];

const RARE_KEYS: ReadonlySet<string> = new Set('lock_args allocation_policy profile read_ahead major minor'.split(' '));
const READ_AHEAD = { min: -1, max: MAX_U32 };
const DEVICE_NUMBER = { min: -1, max: MAX_U32 };

/**
 * Reads a whole text. LVs are read as soon as their sections end, so that the tree of a large VG never exists as a whole; what is
 * wrong with one is said in its turn all the same. `same` may give an equal LV that there is already in place of the one that
 * was read, which is of that number.
 */
export function readMetadataText(
  text: Uint8Array | string,
  where: Where,
  same: (lv: LogicalVolumeText, index: number) => LogicalVolumeText = (lv) => lv,
): MetadataText {
  const volumes = new Map<ConfigSection, LogicalVolumeText>();
  const nodes = parseConfig(text, where, (section, around, root) => {
    const [group, list, ...deeper] = around;
    if (list?.key !== 'logical_volumes' || group === undefined || deeper.length > 0) return false;
    // Only of the list that will count: the first one of the first section.
    if (root.some(isSection) || group.children.some(({ key }) => key === list.key)) return false;
    try {
      volumes.set(section, same(readLogicalVolume(section, group.key, where), volumes.size));
      return true;
    } catch (error) {
      if (error instanceof FormatError) return false;
      throw error;
    }
  });
  return readTree(nodes, volumes, where);
}

function isSection(node: ConfigNode): node is ConfigSection {
  return node.node === 'section';
}

/** `volumes`: LVs that were read already. */
function readTree(
  nodes: readonly ConfigNode[],
  volumes: ReadonlyMap<ConfigSection, LogicalVolumeText>,
  where: Where,
): MetadataText {
  const fields = new Fields(nodes, 'metadata text', where);
  const header = readHeader(fields);
  const section = fields.takeFirstSection();
  if (section === undefined) {
    const problem = 'there is no volume group in it';
    throw new FormatError({ code: 'MISSING_FIELD', ...where, what: 'metadata text', problem });
  }
  return { header, vg: readVolumeGroup(section, volumes, where), extra: fields.rest() };
}

function readHeader(fields: Fields): TextHeader {
  const contents = fields.string('contents');
  if (contents !== CONTENTS) {
    throw fields.fail('BAD_MAGIC', 'contents', { expected: CONTENTS, actual: JSON.stringify(contents) });
  }
  const version = fields.int('version');
  if (version !== FORMAT_VERSION)
    throw fields.fail('BAD_VERSION', 'version', { expected: FORMAT_VERSION, actual: version });
  return {
    contents,
    version,
    description: fields.optionalString('description') ?? '',
    ...optional('creationHost', fields.optionalString('creation_host')),
    ...optional('creationHostSystemId', fields.optionalString('creation_host_system_id')),
    ...optional('creationTime', fields.optionalInt('creation_time')),
  };
}

function readVolumeGroup(
  section: ConfigSection,
  volumes: ReadonlyMap<ConfigSection, LogicalVolumeText>,
  where: Where,
): VolumeGroupText {
  const name = section.key;
  const fields = new Fields(section.children, name, where);
  const pvs = fields.section('physical_volumes');
  if (pvs === undefined) throw fields.fail('MISSING_FIELD', 'physical_volumes', {});
  const lvs = fields.section('logical_volumes');
  const historical = fields.section('historical_logical_volumes');
  return {
    name,
    id: fields.uuid('id'),
    seqno: fields.int('seqno', U32),
    ...optional('format', readFormat(fields)),
    ...readFlags(fields, 'vg'),
    ...optional('systemId', fields.optionalString('system_id')),
    ...optional('lockType', fields.optionalString('lock_type')),
    ...optional('lockArgs', fields.optionalString('lock_args')),
    ...optional('pr', fields.optionalStrings('pr')),
    extentSizeSectors: fields.int('extent_size', { min: 1, max: MAX_U32 }),
    maxLv: fields.int('max_lv', U32),
    maxPv: fields.int('max_pv', U32),
    ...optional('allocationPolicy', fields.optionalWord('allocation_policy', POLICIES)),
    ...optional('profile', fields.optionalString('profile')),
    ...optional('metadataCopies', fields.optionalInt('metadata_copies', U32)),
    physicalVolumes: members(pvs, name, where).map((pv) => readPhysicalVolume(pv, name, where)),
    logicalVolumes: members(lvs, name, where).map((lv) => volumes.get(lv) ?? readLogicalVolume(lv, name, where)),
    historicalLogicalVolumes: members(historical, name, where).map((lv) => readHistorical(lv, name, where)),
    extra: fields.rest(),
  };
}

function readFormat(fields: Fields): string | undefined {
  const format = fields.optionalString('format');
  if (format === undefined || format === 'lvm2') return format;
  throw fields.fail('BAD_VERSION', 'format', { expected: '"lvm2"', actual: JSON.stringify(format) });
}

/** The sections in a list of PVs or LVs, which has nothing else in it. */
function members(list: ConfigSection | undefined, vgName: string, where: Where): readonly ConfigSection[] {
  return (list?.children ?? []).map((node) => {
    if (node.node === 'section') return node;
    const what = `${vgName}: ${list?.key}`;
    throw new FormatError({ code: 'BAD_FIELD', ...where, what, expected: 'sections only', actual: `${node.key} = …` });
  });
}

/** status, flags and tags, which VG, PV and LV have alike. */
function readFlags(
  fields: Fields,
  object: FlaggedObject,
): { readonly status: readonly string[]; readonly flags: readonly string[]; readonly tags: readonly string[] } {
  const status = fields.strings('status');
  const unknown = status.find((word) => !isStatusWord(object, word));
  if (unknown !== undefined) throw fields.fail('UNKNOWN_FLAG', 'status', { actual: JSON.stringify(unknown) });
  const flags = fields.optionalStrings('flags') ?? [];
  return { ...unlocked(object, { status, flags }), tags: fields.optionalStrings('tags') ?? [] };
}

function readPhysicalVolume(section: ConfigSection, vgName: string, where: Where): PhysicalVolumeText {
  const fields = new Fields(section.children, `${vgName} ${section.key}`, where);
  const baStart = fields.optionalInt('ba_start');
  const baSize = fields.optionalInt('ba_size');
  if ((baStart ?? 0) > 0 !== (baSize ?? 0) > 0) {
    throw fields.fail('INCONSISTENT', 'ba_start', { problem: 'a bootloader area needs both ba_start and ba_size' });
  }
  return {
    label: section.key,
    id: fields.uuid('id'),
    ...optional('device', fields.optionalString('device')),
    ...optional('deviceIdType', fields.optionalString('device_id_type')),
    ...optional('deviceId', fields.optionalString('device_id')),
    ...readFlags(fields, 'pv'),
    ...optional('devSizeSectors', fields.optionalInt('dev_size')),
    peStartSectors: fields.int('pe_start'),
    peCount: fields.int('pe_count', U32),
    ...optional('baStartSectors', baStart),
    ...optional('baSizeSectors', baSize),
    extra: fields.rest(),
  };
}

function readLogicalVolume(section: ConfigSection, vgName: string, where: Where): LogicalVolumeText {
  const name = section.key;
  const what = `${vgName}/${name}`;
  const fields = new Fields(section.children, what, where);
  const creationTime = fields.optionalInt('creation_time');
  const creationHost = fields.optionalString('creation_host');
  if ((creationTime === undefined) !== (creationHost === undefined)) {
    const missing = creationTime === undefined ? 'creation_time' : 'creation_host';
    throw fields.fail('MISSING_FIELD', missing, { problem: 'creation_time and creation_host come together' });
  }
  const id = fields.uuid('id');
  const { status, flags, tags } = readFlags(fields, 'lv');
  const rare = readRareFields(fields);
  const made = creationTime === undefined || creationHost === undefined ? {} : { creationTime, creationHost };
  const segments = readSegments(fields, what, where);
  // Tens of thousands of LVs may have none of them.
  if (rare === null) return { name, id, status, flags, tags, ...made, segments, extra: fields.rest() };
  return { name, id, status, flags, tags, ...made, ...rare, segments, extra: fields.rest() };
}

type RareFields = Pick<
  LogicalVolumeText,
  'lockArgs' | 'allocationPolicy' | 'profile' | 'readAhead' | 'major' | 'minor'
>;

/** What few LVs have; null: this one has nothing of it. */
function readRareFields(fields: Fields): RareFields | null {
  if (!fields.hasAny(RARE_KEYS)) return null;
  return {
    ...optional('lockArgs', fields.optionalString('lock_args')),
    ...optional('allocationPolicy', fields.optionalWord('allocation_policy', POLICIES)),
    ...optional('profile', fields.optionalString('profile')),
    ...optional('readAhead', fields.optionalInt('read_ahead', READ_AHEAD)),
    ...optional('major', fields.optionalInt('major', DEVICE_NUMBER)),
    ...optional('minor', fields.optionalInt('minor', DEVICE_NUMBER)),
  };
}

function readSegments(fields: Fields, what: string, where: Where): LogicalVolumeText['segments'] {
  const expected = fields.int('segment_count', U32);
  const sections = fields.takeSections();
  if (sections.length !== expected) {
    throw fields.fail('INCONSISTENT', 'segment_count', { expected: `${expected} segments`, actual: sections.length });
  }
  const segments = sections.map((section) => readSegment(section, `${what} ${section.key}`, where));
  return segments.sort((a, b) => a.startExtent - b.startExtent);
}

function readHistorical(section: ConfigSection, vgName: string, where: Where): HistoricalLogicalVolumeText {
  const fields = new Fields(section.children, `${vgName} historical ${section.key}`, where);
  const descendants = fields.optionalStrings('descendants');
  if (descendants?.length === 0) throw fields.fail('BAD_FIELD', 'descendants', { expected: 'at least one name' });
  return {
    label: section.key,
    id: fields.uuid('id'),
    ...optional('name', fields.optionalString('name')),
    ...optional('creationTime', fields.optionalInt('creation_time')),
    ...optional('removalTime', fields.optionalInt('removal_time')),
    ...optional('origin', fields.optionalString('origin')),
    descendants: descendants ?? [],
    extra: fields.rest(),
  };
}

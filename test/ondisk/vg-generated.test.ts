/**
 * Generated volume groups with every segment type and every optional field: each prints and parses back to itself, in both
 * forms, and passes through the metadata area's bytes.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import * as fc from 'fast-check';
import type {
  ConfigAssignment,
  ConfigNode,
  LogicalVolumeText,
  MetadataText,
  PhysicalVolumeText,
  Segment,
  VolumeGroupText,
} from '../../src/ondisk/metadata.ts';
import { formatUuid } from '../../src/ondisk/uuid.ts';
import { metadataTextBytes, parseMetadataText, printMetadataText } from '../../src/ondisk/vg-text.ts';

const WHERE = { device: 'generated', offset: 0 };
const RECORD = { noNullPrototype: true, requiredKeys: [] };
/** Each LV gets this many extents of one PV; generated areas point at such LVs. */
const PIECE = 12;
/** Linear LVs that the generated segments refer to: enough for any of them. */
const PARTS = Array.from({ length: 6 }, (_, index) => `part_${index}`);

const u32 = fc.nat({ max: 2 ** 32 - 1 });
const u53 = fc.maxSafeNat();
const positive = fc.integer({ min: 1, max: 2 ** 32 - 1 });
const text = fc.oneof(
  fc.stringMatching(/^[\w/.+-]{1,12}$/),
  fc
    .string({ unit: 'binary', minLength: 1, maxLength: 10 })
    .filter((value) => !value.includes('\0') && value.isWellFormed()),
);
const uuid = fc.stringMatching(/^[0-9a-zA-Z!#]{32}$/).map(formatUuid);
const tags = fc.array(fc.stringMatching(/^[\w+.-]{1,8}$/), { maxLength: 3 });
const part = fc.constantFrom(...PARTS);
const flags = fc.array(fc.constantFrom('NOAUTOACTIVATE', 'FUTURE'), { maxLength: 2 });
const extra: fc.Arbitrary<ConfigNode[]> = fc.array(
  fc.record(
    {
      node: fc.constant('value' as const),
      key: fc.stringMatching(/^x_[a-z]{1,4}$/),
      value: fc.record({ kind: fc.constant('int' as const), value: u32 }, { noNullPrototype: true }),
    },
    { noNullPrototype: true },
  ),
  { maxLength: 2 },
);
const policy = fc.constantFrom('contiguous', 'cling', 'cling_by_tags', 'normal', 'anywhere', 'inherit');

function settings(...keys: readonly string[]): fc.Arbitrary<ConfigAssignment[]> {
  return fc
    .subarray([...keys])
    .chain((chosen) => fc.tuple(fc.constant(chosen), fc.array(u32, { minLength: keys.length, maxLength: keys.length })))
    .map(([chosen, values]) =>
      chosen.map((key, index) => ({ node: 'value', key, value: { kind: 'int', value: values[index] ?? 0 } })),
    );
}

const area = fc.record({ name: part, extent: fc.constant(0) }, { noNullPrototype: true });
const cacheSettings = {
  metadataFormat: fc.constantFrom(1, 2),
  chunkSizeSectors: u32,
  cacheMode: fc.constantFrom('writethrough', 'writeback', 'passthrough'),
  policy: fc.constantFrom('smq', 'mq', 'cleaner'),
};
const shared = { startExtent: fc.constant(0), extentCount: fc.constant(PIECE), tags, extra };
const plain = { ...shared, typeFlags: fc.constant([] as string[]) };

type Recipe = Readonly<Record<string, fc.Arbitrary<unknown>>>;

/** One object of several; its type is the caller's to say, and the round trip's to check. */
function joined(parts: readonly object[]): object {
  return Object.assign({}, ...parts);
}

/** A segment of fixed fields, and optional ones that may each be absent. */
function segmentOf(required: Recipe, maybe: Recipe = {}): fc.Arbitrary<Segment> {
  const always = fc.record(required, { noNullPrototype: true });
  const sometimes = fc.record({ ...maybe, reshapeCount: u32 }, RECORD);
  return fc.tuple(always, sometimes).map((parts) => joined(parts) as Segment);
}

const segments: readonly fc.Arbitrary<Segment>[] = [
  segmentOf({ ...plain, type: fc.constant('striped' as const), areas: fc.tuple(area) }, {}),
  segmentOf({
    ...plain,
    type: fc.constant('striped' as const),
    areas: fc.tuple(area, area, area),
    stripeSizeSectors: positive,
  }),
  segmentOf(
    { ...plain, type: fc.constant('mirror' as const), areas: fc.tuple(area, area), regionSizeSectors: positive },
    { extentsMoved: u32, mirrorLog: part },
  ),
  segmentOf({
    ...plain,
    type: fc.constant('raid0' as const),
    stripeSizeSectors: positive,
    images: fc.tuple(part, part),
  }),
  segmentOf(
    {
      ...shared,
      typeFlags: fc.subarray(['RESHAPE', 'RESHAPE_DATA_OFFSET']),
      type: fc.constant('raid' as const),
      raidType: fc.constantFrom(
        'raid0_meta',
        'raid1',
        'raid4',
        'raid5',
        'raid5_n',
        'raid6',
        'raid6_nc',
        'raid10',
        'raid10_near',
      ),
      images: fc.constant(PARTS.slice(0, 4).map((data, index) => ({ metadata: `meta_rmeta_${index}`, data }))),
    },
    {
      dataCopies: u32,
      regionSizeSectors: u32,
      stripeSizeSectors: u32,
      writeBehind: u32,
      minRecoveryRate: u32,
      maxRecoveryRate: u32,
      dataOffset: u32,
    },
  ),
  segmentOf({
    ...plain,
    type: fc.constant('snapshot' as const),
    chunkSizeSectors: positive,
    origin: fc.constant('part_0'),
    cowStore: fc.constant('part_1'),
    merging: fc.boolean(),
  }),
  segmentOf(
    {
      ...shared,
      typeFlags: fc.subarray(['CROP_METADATA']),
      type: fc.constant('thin-pool' as const),
      metadata: part,
      pool: part,
      transactionId: u53,
      chunkSizeSectors: fc.integer({ min: 128, max: 2097152 }),
      zeroNewBlocks: fc.boolean(),
      messages: fc.array(
        fc.oneof(
          fc.record({ create: part }, { noNullPrototype: true }),
          fc.record({ delete: u32 }, { noNullPrototype: true }),
        ),
        { maxLength: 3 },
      ),
    },
    { discards: fc.constantFrom('passdown', 'nopassdown', 'ignore'), cropMetadata: fc.constantFrom(0, 1) },
  ),
  segmentOf(
    {
      ...plain,
      type: fc.constant('thin' as const),
      thinPool: part,
      transactionId: u53,
      deviceId: fc.nat({ max: 2 ** 24 - 1 }),
    },
    { externalOrigin: part, origin: part, merge: part },
  ),
  segmentOf(
    {
      ...shared,
      typeFlags: fc.subarray(['METADATA_FORMAT']),
      type: fc.constant('cache-pool' as const),
      data: part,
      metadata: part,
    },
    cacheSettings,
  ),
  segmentOf(
    {
      ...shared,
      typeFlags: fc.constant(['CACHE_USES_CACHEVOL']),
      type: fc.constant('cache' as const),
      cachePool: part,
      origin: part,
      policy: fc.constant('smq'),
      policySettings: settings('migration_threshold').map((list): ConfigNode[] => {
        const more: ConfigNode[] = [{ node: 'section', key: 'more', children: list }];
        return more.concat(list);
      }),
      metadataStart: u53,
      metadataLen: u53,
      dataStart: u53,
      dataLen: u53,
    },
    {
      metadataFormat: fc.constantFrom(1, 2),
      chunkSizeSectors: u32,
      cacheMode: fc.constant('writeback'),
      cleaner: fc.constant(1),
      metadataId: uuid,
      dataId: uuid,
    },
  ),
  segmentOf({
    ...plain,
    type: fc.constant('writecache' as const),
    writecache: part,
    origin: part,
    blockSizeBytes: fc.constantFrom(512, 4096),
    settings: settings('high_watermark', 'low_watermark', 'cleaner', 'max_age'),
  }),
  segmentOf({ ...plain, type: fc.constant('vdo' as const), vdoPool: part, vdoOffset: u32 }, {}),
  segmentOf({
    ...plain,
    type: fc.constant('vdo-pool' as const),
    data: part,
    settings: settings('header_size', 'virtual_extents', 'use_compression', 'slab_size_mb'),
  }),
  segmentOf(
    {
      ...plain,
      type: fc.constant('integrity' as const),
      origin: part,
      dataSectors: u53,
      settings: settings('journal_sectors', 'sectors_per_bit', 'allow_discards'),
    },
    {
      mode: fc.constantFrom('J', 'B', 'D'),
      tagSize: u32,
      blockSizeBytes: u32,
      internalHash: fc.constant('crc32c'),
      metaDev: part,
      recalculate: u32,
    },
  ),
  segmentOf({ ...plain, type: fc.constantFrom('error' as const, 'zero' as const) }, {}),
  segmentOf({ ...plain, type: fc.constant('unknown' as const), typeName: fc.constantFrom('future', 'thin+LATER') }, {}),
];

function numberedUuid(number: number): string {
  return formatUuid(String(number).padStart(32, 'u'));
}

function linearPart(name: string, index: number): LogicalVolumeText {
  return {
    name,
    id: numberedUuid(1000 + index),
    status: ['READ', 'WRITE'],
    flags: [],
    tags: [],
    segments: [
      {
        type: 'striped',
        startExtent: 0,
        extentCount: PIECE,
        tags: [],
        typeFlags: [],
        extra: [],
        areas: [{ name: 'pv0', extent: index * PIECE }],
      },
    ],
    extra: [],
  };
}

const HELPERS = [...PARTS, ...[0, 1, 2, 3].map((index) => `meta_rmeta_${index}`)].map(linearPart);

const lvFields = fc
  .tuple(
    fc.record(
      { status: fc.subarray(['READ', 'WRITE', 'VISIBLE', 'LOCKED']), flags, tags, extra },
      { noNullPrototype: true },
    ),
    fc.record(
      {
        lockArgs: text,
        allocationPolicy: policy,
        profile: text,
        readAhead: fc.integer({ min: -1, max: 2 ** 32 - 1 }),
        major: fc.constant(253),
        minor: u32,
      },
      RECORD,
    ),
    fc.option(fc.record({ creationTime: u53, creationHost: text }, { noNullPrototype: true }), { nil: {} }),
  )
  .map((parts) => joined(parts) as Omit<LogicalVolumeText, 'name' | 'id' | 'segments'>);

const pv: fc.Arbitrary<PhysicalVolumeText> = fc
  .tuple(
    fc.record(
      {
        status: fc.subarray(['ALLOCATABLE', 'EXPORTED', 'MISSING']),
        flags,
        tags,
        peStartSectors: u32,
        peCount: fc.integer({ min: 1000, max: 100000 }),
        extra,
      },
      { noNullPrototype: true },
    ),
    fc.record({ device: text, deviceIdType: text, deviceId: text, devSizeSectors: u53 }, RECORD),
    fc.option(fc.record({ baStartSectors: positive, baSizeSectors: positive }, { noNullPrototype: true }), { nil: {} }),
  )
  .map(([fixed, hints, bootloader]) =>
    Object.assign({}, fixed, hints, bootloader, { label: 'pv0', id: numberedUuid(0) }),
  );

const vgFields = fc
  .tuple(
    fc.record(
      {
        name: fc.stringMatching(/^[A-Za-z0-9+_.][A-Za-z0-9+_.-]{2,20}$/),
        id: uuid,
        seqno: u32,
        status: fc.subarray(['EXPORTED', 'RESIZEABLE', 'READ', 'WRITE']),
        flags,
        tags,
        extentSizeSectors: fc.integer({ min: 1, max: 65536 }),
        maxLv: u32,
        maxPv: u32,
        extra,
      },
      { noNullPrototype: true },
    ),
    fc.record(
      {
        format: fc.constant('lvm2'),
        systemId: text,
        lockType: fc.constantFrom('none', 'sanlock'),
        lockArgs: text,
        pr: fc.subarray(['require', 'autostart', 'ptpl'], { minLength: 1 }),
        allocationPolicy: policy,
        profile: text,
        metadataCopies: u32,
      },
      RECORD,
    ),
  )
  .map((parts) => joined(parts) as VolumeGroupText);

const historical = fc
  .record({ name: text, creationTime: u53, removalTime: u53, origin: part }, RECORD)
  .chain((fields) =>
    fc.record({ fields: fc.constant(fields), descendants: fc.subarray([...PARTS]), extra }, { noNullPrototype: true }),
  )
  .map(({ fields, descendants, extra: kept }) =>
    Object.assign({}, fields, { descendants, extra: kept, label: 'gone', id: numberedUuid(1) }),
  );

const header = fc
  .tuple(text, fc.record({ creationHost: text, creationHostSystemId: text, creationTime: u32 }, RECORD))
  .map(([description, rest]) => Object.assign({ contents: 'Text Format Volume Group', version: 1, description }, rest));

const metadata: fc.Arbitrary<MetadataText> = fc
  .record({
    header,
    vg: vgFields,
    pv,
    segments: fc.tuple(...segments),
    lvs: fc.array(lvFields, { minLength: segments.length, maxLength: segments.length }),
    history: fc.array(historical, { maxLength: 1 }),
    extra,
  })
  .map((parts) => ({
    header: parts.header,
    extra: parts.extra,
    vg: {
      ...parts.vg,
      physicalVolumes: [parts.pv],
      logicalVolumes: [
        ...parts.segments.map((segment, index): LogicalVolumeText => {
          const fields = parts.lvs[index];
          assert.ok(fields);
          return Object.assign({}, fields, { name: `lv_${index}`, id: numberedUuid(100 + index), segments: [segment] });
        }),
        ...HELPERS,
      ],
      historicalLogicalVolumes: parts.history,
    },
  }));

describe('generated volume groups', () => {
  for (const form of ['disk', 'backup'] as const) {
    test(`${form} form`, () => {
      fc.assert(
        fc.property(metadata, fc.boolean(), (value, withContext) => {
          const context = { generator: 'a generator', time: 1795349551, uname: 'Linux vm 6.1 #1 x86_64' };
          const printed = printMetadataText(value, form, withContext ? context : undefined);
          assert.deepEqual(parseMetadataText(printed, WHERE), value);
        }),
        { numRuns: 60 },
      );
    });
  }

  test('bytes of a metadata area', () => {
    fc.assert(
      fc.property(metadata, (value) => {
        const bytes = metadataTextBytes(value);
        assert.equal(bytes.indexOf(0), bytes.length - 1);
        assert.deepEqual(parseMetadataText(bytes, WHERE), value);
      }),
      { numRuns: 30 },
    );
  });
});

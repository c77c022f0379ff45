/**
 * What the reader of volume groups tolerates, keeps and refuses: hand-made texts, contradictions, damage.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { FormatError } from '../../src/ondisk/errors.ts';
import type { MetadataText } from '../../src/ondisk/metadata.ts';
import { metadataTextBytes, parseMetadataText, printMetadataText } from '../../src/ondisk/vg-text.ts';
import { backupTexts, diskTexts } from './samples.ts';

const WHERE = { device: '/dev/sdx', offset: 4608 };

function parse(text: string | Buffer): MetadataText {
  return parseMetadataText(text, WHERE);
}

function id(letter: string): string {
  return letter.repeat(32);
}

const PV0 = `pv0 { id = "${id('p')}" status = ["ALLOCATABLE"] pe_start = 2048 pe_count = 100 }`;

function lv(name: string, segment: string, more = ''): string {
  const letters = Buffer.from(name).toString('hex');
  return `${name} { id = "${letters.padEnd(32, '0').slice(0, 32)}" status = ["READ", "WRITE", "VISIBLE"] ${more}
    segment_count = 1 segment1 { start_extent = 0 ${segment} } }`;
}

function linear(name: string, pe: number, extents = 3): string {
  return lv(name, `extent_count = ${extents} type = "striped" stripe_count = 1 stripes = ["pv0", ${pe}]`);
}

interface Parts {
  readonly fields?: string;
  readonly pvs?: string;
  readonly lvs?: string;
  readonly sections?: string;
  readonly header?: string;
}

const FIELDS = `id = "${id('v')}" seqno = 1 status = ["RESIZEABLE", "READ", "WRITE"] extent_size = 8192 max_lv = 0 max_pv = 0`;

function vg({ fields = FIELDS, pvs = PV0, lvs = linear('lv1', 7), sections = '', header }: Parts = {}): string {
  return `mini { ${fields} physical_volumes { ${pvs} } logical_volumes { ${lvs} } ${sections} }
    ${header ?? 'contents = "Text Format Volume Group" version = 1'}`;
}

function checkKept(text: string): MetadataText {
  const parsed = parse(text);
  for (const form of ['disk', 'backup'] as const) assert.deepEqual(parse(printMetadataText(parsed, form)), parsed);
  return parsed;
}

function refused(text: string, code: string, message: RegExp): void {
  assert.throws(
    () => parse(text),
    (error) => {
      assert.ok(error instanceof FormatError, String(error));
      assert.equal(error.code, code, error.message);
      assert.match(error.message, message);
      assert.match(error.message, /^\/dev\/sdx at byte 4608: /);
      return true;
    },
  );
}

describe('tolerated', () => {
  test('a minimal text, made by hand', () => {
    const { vg: parsed, header } = checkKept(vg());
    assert.deepEqual(
      { name: parsed.name, id: parsed.id, flags: parsed.flags, format: parsed.format, copies: parsed.metadataCopies },
      { name: 'mini', id: 'vvvvvv-vvvv-vvvv-vvvv-vvvv-vvvv-vvvvvv', flags: [], format: undefined, copies: undefined },
    );
    assert.equal(header.description, '');
  });

  test('header fields before, after and around the VG', () => {
    const header = 'contents = "Text Format Volume Group" version = 1';
    assert.deepEqual(parse(`${header} ${vg({ header: '' })}`), parse(vg()));
    assert.deepEqual(parse(`version = 1 ${vg({ header: 'contents = "Text Format Volume Group"' })}`), parse(vg()));
  });

  test('no logical volumes', () => {
    assert.deepEqual(checkKept(vg({ lvs: '' })).vg.logicalVolumes, []);
  });

  test('unknown keys and sections are kept at their objects', () => {
    const parsed = checkKept(
      vg({
        fields: `${FIELDS} future = [1, "two"] future_section { x = "y" nested { z = 1.5 } }`,
        pvs: PV0.replace('pe_start', 'wear = 3 pe_start'),
        lvs: lv('lv1', 'extent_count = 1 type = "zero" hint = "h" notes { a = 1 }', 'colour = red'),
        header: 'contents = "Text Format Volume Group" version = 1 signed_by = "me" trailer { a = 1 }',
      }),
    );
    assert.deepEqual(
      parsed.vg.extra.map((node) => node.key),
      ['future', 'future_section'],
    );
    assert.deepEqual(
      parsed.extra.map((node) => node.key),
      ['signed_by', 'trailer'],
    );
    assert.equal(parsed.vg.physicalVolumes[0]?.extra.length, 1);
    assert.equal(parsed.vg.logicalVolumes[0]?.extra.length, 1);
    assert.equal(parsed.vg.logicalVolumes[0]?.segments[0]?.extra.length, 2);
  });

  test('unknown words in flags are kept', () => {
    assert.deepEqual(checkKept(vg({ fields: `${FIELDS} flags = ["FUTURE"]` })).vg.flags, ['FUTURE']);
  });

  test('an unknown segment type is kept, printed as LVM2 prints it', () => {
    const parsed = checkKept(
      vg({
        lvs: lv('lv1', 'extent_count = 1 type = "futuretype" tags = ["t"] size = 5 parts = ["a", 1] sub { k = "v" }'),
      }),
    );
    const [segment] = parsed.vg.logicalVolumes[0]?.segments ?? [];
    assert.partialDeepStrictEqual(segment, { type: 'unknown', typeName: 'futuretype', tags: ['t'] });
    assert.match(
      printMetadataText(parsed, 'disk'),
      /\ntype = "futuretype"\ntags = \["t"\]\nsize=5\nparts=\["a",1\]\nsub \{\n\tk="v"\n\}\n\}\n/,
    );
  });

  test('a known type with an unknown suffix is an unknown type', () => {
    const parsed = checkKept(vg({ lvs: lv('lv1', 'extent_count = 1 type = "zero+LATER"') }));
    assert.partialDeepStrictEqual(parsed.vg.logicalVolumes[0]?.segments, [{ type: 'unknown', typeName: 'zero+LATER' }]);
  });

  test('of repeated keys the first counts, in print too', () => {
    const parsed = checkKept(vg({ fields: `${FIELDS} seqno = 9 status = ["BOGUS"]` }));
    assert.equal(parsed.vg.seqno, 1);
    assert.deepEqual(
      parsed.vg.extra.map((node) => node.key),
      ['seqno', 'status'],
    );
  });

  test('an unknown key may have a number that only its text can hold', () => {
    const parsed = checkKept(vg({ fields: `${FIELDS} hash = 18446744073709551615` }));
    assert.match(printMetadataText(parsed, 'disk'), /\nhash=18446744073709551615\n/);
  });

  test('linear is striped', () => {
    const parsed = checkKept(vg({ lvs: linear('a', 0).replace('"striped"', '"linear"') }));
    assert.partialDeepStrictEqual(parsed.vg.logicalVolumes[0]?.segments, [{ type: 'striped' }]);
  });

  test('an unknown allocation policy is kept aside', () => {
    const parsed = checkKept(vg({ fields: `${FIELDS} allocation_policy = "magic"` }));
    assert.equal(parsed.vg.allocationPolicy, undefined);
  });

  test('segments in any order, with any names', () => {
    const segments = `segment_count = 2
      later { start_extent = 2 extent_count = 1 type = "zero" } first { start_extent = 0 extent_count = 2 type = "error" }`;
    const parsed = checkKept(vg({ lvs: `lv1 { id = "${id('l')}" status = "READ" ${segments} }` }));
    assert.deepEqual(
      parsed.vg.logicalVolumes[0]?.segments.map(({ type, startExtent }) => [type, startExtent]),
      [
        ['error', 0],
        ['zero', 2],
      ],
    );
  });

  test('names and texts with quotes, backslashes and bytes that are no UTF-8', () => {
    const text = vg({ pvs: PV0.replace('status', String.raw`device = "/dev/a\"b\\c` + '\u00e9" status') });
    const bytes = Buffer.from(text, 'latin1');
    const parsed = parse(bytes);
    const device = parsed.vg.physicalVolumes[0]?.device;
    assert.equal(device, '/dev/a"b\\c\udce9');
    const printed = metadataTextBytes(parsed);
    assert.ok(printed.includes(Buffer.from(String.raw`device = "/dev/a\"b\\c` + '\u00e9"', 'latin1')));
    assert.deepEqual(parse(printed), parsed);
  });

  test('raid4 and raid5_n without metadata volumes', () => {
    const images = [0, 1, 2].map((n) => lv(`r_rimage_${n}`, 'extent_count = 2 type = "zero"')).join(' ');
    const raid = lv(
      'r',
      'extent_count = 4 type = "raid5_n" device_count = 3 stripe_size = 128 raids = ["r_rimage_0", "r_rimage_1", "r_rimage_2"]',
    );
    const parsed = checkKept(vg({ lvs: `${raid} ${images}` }));
    assert.partialDeepStrictEqual(parsed.vg.logicalVolumes[0]?.segments, [
      { images: [{ data: 'r_rimage_0' }, {}, {}] },
    ]);
  });

  test('a VDO pool: bare words, blank line and size comments', () => {
    const settings =
      'header_size = 1024 virtual_extents = 20 use_compression = 1 slab_size_mb = 2048 write_policy = async';
    const lvs = [
      lv('vpool0', `extent_count = 10 type = "vdo-pool" data = "vpool0_vdata" ${settings}`),
      lv('v', 'extent_count = 20 type = "vdo" vdo_pool = "vpool0" vdo_offset = 0'),
      linear('vpool0_vdata', 0, 10),
    ];
    const parsed = checkKept(vg({ lvs: lvs.join(' ') }));
    assert.match(
      printMetadataText(parsed, 'backup'),
      /header_size = 1024\t# 512 Kilobytes\n\t{4}virtual_extents = 20\t# 80 Megabytes\n\n\t{4}use_compression = 1\n\t{4}slab_size_mb = 2048\t# 2 Gigabytes\n\t{4}write_policy = async\n/,
    );
  });
});

describe('refused', () => {
  const thin = 'thin_pool = "pool" transaction_id = 0 device_id';
  const cases: readonly (readonly [string, string, string, RegExp])[] = [
    ['empty text', '', 'MISSING_FIELD', /contents/],
    ['other contents', vg({ header: 'contents = "x" version = 1' }), 'BAD_MAGIC', /contents/],
    [
      'other version',
      vg({ header: 'contents = "Text Format Volume Group" version = 2' }),
      'BAD_VERSION',
      /expected 1, found 2/,
    ],
    ['no VG', 'contents = "Text Format Volume Group" version = 1', 'MISSING_FIELD', /no volume group/],
    ['other format', vg({ fields: `${FIELDS} format = "lvm1"` }), 'BAD_VERSION', /format/],
    ['bad VG name', vg().replace('mini', '"mi ni"'), 'BAD_FIELD', /name of the volume group/],
    ['VG name that is an option', vg().replace('mini', '-mini'), 'BAD_FIELD', /name of the volume group/],
    ['no physical_volumes', vg().replace('physical_volumes', 'others'), 'MISSING_FIELD', /mini: physical_volumes/],
    ['a key among the PVs', vg({ pvs: `${PV0} x = 1` }), 'BAD_FIELD', /physical_volumes: .*sections only/],
    ...['id', 'seqno', 'status', 'extent_size', 'max_lv', 'max_pv'].map(
      (key): readonly [string, string, string, RegExp] => [
        `no ${key}`,
        vg({ fields: FIELDS.replace(`${key} =`, `x${key} =`) }),
        'MISSING_FIELD',
        new RegExp(`mini: ${key}: missing field`),
      ],
    ),
    ['bad id', vg({ fields: FIELDS.replace(id('v'), 'v') }), 'BAD_FIELD', /an id of 32 characters, found "v"/],
    ['negative seqno', vg({ fields: FIELDS.replace('seqno = 1', 'seqno = -1') }), 'OUT_OF_RANGE', /seqno/],
    [
      'max_lv of 2^53',
      vg({ fields: FIELDS.replace('max_lv = 0', 'max_lv = 9007199254740992') }),
      'TOO_LARGE',
      /max_lv.*less than 2\^53/,
    ],
    [
      'seqno of the wrong kind',
      vg({ fields: FIELDS.replace('seqno = 1', 'seqno = "1"') }),
      'BAD_FIELD',
      /an integer, found "1"/,
    ],
    ['extent size 0', vg({ fields: FIELDS.replace('8192', '0') }), 'OUT_OF_RANGE', /extent_size/],
    [
      'extents beyond 2^53 bytes',
      vg({ fields: FIELDS.replace('8192', '4294967295'), pvs: PV0.replace('= 100', '= 4294967295') }),
      'TOO_LARGE',
      /pv0/,
    ],
    ['unknown status of the VG', vg({ fields: FIELDS.replace('"READ"', '"FUTURE"') }), 'UNKNOWN_FLAG', /"FUTURE"/],
    ['unknown status of a PV', vg({ pvs: PV0.replace('ALLOCATABLE', 'FUTURE') }), 'UNKNOWN_FLAG', /mini pv0: status/],
    [
      'unknown status of an LV',
      vg({ lvs: linear('lv1', 0).replace('VISIBLE', 'FUTURE') }),
      'UNKNOWN_FLAG',
      /mini\/lv1: status/,
    ],
    ['tags that are no strings', vg({ fields: `${FIELDS} tags = [1]` }), 'BAD_FIELD', /tags/],
    [
      'half a bootloader area',
      vg({ pvs: PV0.replace('pe_start', 'ba_start = 5 pe_start') }),
      'INCONSISTENT',
      /bootloader/,
    ],
    [
      'two PVs of one label',
      vg({ pvs: `${PV0} ${PV0.replace(id('p'), id('q'))}` }),
      'INCONSISTENT',
      /pv0: there are two/,
    ],
    ['two PVs of one id', vg({ pvs: `${PV0} ${PV0.replace('pv0', 'pv1')}` }), 'INCONSISTENT', /there are two/],
    [
      'two LVs of one name',
      vg({ lvs: `${linear('a', 0)} ${linear('a', 9)}` }),
      'INCONSISTENT',
      /logical volume a: there are two/,
    ],
    [
      'two LVs of one id',
      vg({ lvs: `${linear('a', 0)} ${linear('a', 9).replace('a {', 'b {')}` }),
      'INCONSISTENT',
      /id .*two/,
    ],
    ['bad LV name', vg({ lvs: linear('"a b"', 0).replaceAll('""', '"') }), 'BAD_FIELD', /name of a logical volume/],
    [
      'creation_time without host',
      vg({ lvs: lv('a', 'extent_count = 1 type = "zero"', 'creation_time = 5') }),
      'MISSING_FIELD',
      /creation_host/,
    ],
    [
      'fixed minor without minor',
      vg({ lvs: linear('a', 0).replace('VISIBLE', 'FIXED_MINOR') }),
      'MISSING_FIELD',
      /minor/,
    ],
    [
      'segment_count',
      vg({ lvs: linear('a', 0).replace('count = 1 segment1', 'count = 2 segment1') }),
      'INCONSISTENT',
      /expected 2 segments, found 1/,
    ],
    [
      'no segments',
      vg({ lvs: `a { id = "${id('l')}" status = [] segment_count = 0 }` }),
      'INCONSISTENT',
      /no segments/,
    ],
    [
      'gap before a segment',
      vg({ lvs: linear('a', 0).replace('start_extent = 0', 'start_extent = 1') }),
      'INCONSISTENT',
      /expected 0, found 1/,
    ],
    ['empty segment', vg({ lvs: linear('a', 0, 0) }), 'OUT_OF_RANGE', /extent_count/],
    ['no type', vg({ lvs: lv('a', 'extent_count = 1') }), 'MISSING_FIELD', /a segment1: type/],
    ['area on nothing', vg({ lvs: linear('a', 0).replace('pv0', 'pv9') }), 'BAD_REFERENCE', /pv9, which is neither/],
    ['area over the PV end', vg({ lvs: linear('a', 98) }), 'OUT_OF_RANGE', /at most 100, found extents 98 to 101/],
    [
      'two LVs on one extent',
      vg({ lvs: `${linear('a', 0)} ${linear('b', 2)}` }),
      'INCONSISTENT',
      /extent 2 of pv0 belongs to both a and b/,
    ],
    [
      'wrong number of stripes',
      vg({ lvs: linear('a', 0).replace('stripe_count = 1', 'stripe_count = 2 stripe_size = 8') }),
      'INCONSISTENT',
      /2 pairs/,
    ],
    [
      'stripes of the wrong kinds',
      vg({ lvs: linear('a', 0).replace('"pv0", 0', '0, "pv0"') }),
      'BAD_FIELD',
      /pairs of a name and an extent/,
    ],
    [
      'stripes that share unevenly',
      vg({
        lvs: linear('a', 0).replace(
          'count = 1 stripes = ["pv0", 0]',
          'count = 2 stripe_size = 8 stripes = ["pv0", 0, "pv0", 5]',
        ),
      }),
      'INCONSISTENT',
      /don't divide/,
    ],
    [
      'stripes without a size',
      vg({
        lvs: linear('a', 0, 4).replace('count = 1 stripes = ["pv0", 0]', 'count = 2 stripes = ["pv0", 0, "pv0", 5]'),
      }),
      'MISSING_FIELD',
      /stripe_size/,
    ],
    [
      'reference to nothing',
      vg({ lvs: lv('a', `extent_count = 1 type = "thin" ${thin} = 1`) }),
      'BAD_REFERENCE',
      /refers to pool, which is not in the VG/,
    ],
    [
      'thin device id',
      vg({ lvs: lv('a', `extent_count = 1 type = "thin" ${thin} = 16777216`) }),
      'OUT_OF_RANGE',
      /device_id/,
    ],
    [
      'LV on itself',
      vg({ lvs: lv('a', 'extent_count = 1 type = "striped" stripe_count = 1 stripes = ["a", 0]') }),
      'INCONSISTENT',
      /a: is built on itself/,
    ],
    [
      'LVs on each other',
      vg({
        lvs: ['ab', 'bc', 'ca']
          .map((pair) =>
            lv(pair.charAt(0), `extent_count = 1 type = "striped" stripe_count = 1 stripes = ["${pair.charAt(1)}", 0]`),
          )
          .join(' '),
      }),
      'INCONSISTENT',
      /is built on itself/,
    ],
    [
      'snapshot of its own store',
      vg({
        lvs: `${linear('o', 0)} ${lv('s', 'extent_count = 3 type = "snapshot" chunk_size = 8 origin = "o" cow_store = "o"')}`,
      }),
      'INCONSISTENT',
      /both origin and snapshot store/,
    ],
    [
      'two snapshot stores',
      vg({
        lvs: lv(
          's',
          'extent_count = 3 type = "snapshot" chunk_size = 8 origin = "o" cow_store = "a" merging_store = "b"',
        ),
      }),
      'INCONSISTENT',
      /only one/,
    ],
    [
      'snapshot without a store',
      vg({ lvs: lv('s', 'extent_count = 3 type = "snapshot" chunk_size = 8 origin = "o"') }),
      'MISSING_FIELD',
      /cow_store/,
    ],
    [
      'mirror log without regions',
      vg({ lvs: lv('m', 'extent_count = 1 type = "mirror" mirror_count = 1 mirror_log = "l" mirrors = ["pv0", 0]') }),
      'MISSING_FIELD',
      /region_size/,
    ],
    [
      'raid metadata without data',
      vg({ lvs: lv('r', 'extent_count = 1 type = "raid1" device_count = 1 raids = ["r_rmeta_0"]') }),
      'INCONSISTENT',
      /r_rmeta_0 without its data/,
    ],
    [
      'raid of another count',
      vg({ lvs: lv('r', 'extent_count = 1 type = "raid1" device_count = 3 raids = ["a", "b"]') }),
      'INCONSISTENT',
      /3 images, found 2/,
    ],
    [
      'raid without a count',
      vg({ lvs: lv('r', 'extent_count = 1 type = "raid1" raids = ["a", "b"]') }),
      'MISSING_FIELD',
      /device_count/,
    ],
    [
      'raid with two counts',
      vg({ lvs: lv('r', 'extent_count = 1 type = "raid1" device_count = 2 stripe_count = 2 raids = ["a", "b"]') }),
      'INCONSISTENT',
      /only one/,
    ],
    [
      'raid6 with too few images',
      vg({
        lvs: `${lv('r', 'extent_count = 1 type = "raid6" device_count = 2 raids = ["a", "b"]')} ${linear('a', 0)} ${linear('b', 9)}`,
      }),
      'INCONSISTENT',
      /0 shares/,
    ],
    [
      'two segments where one must be',
      vg({
        lvs: `s { id = "${id('l')}" status = [] segment_count = 2 ${[0, 1].map((n) => `x${n} { start_extent = ${n} extent_count = 1 type = "snapshot" chunk_size = 8 origin = "o" cow_store = "c" }`).join(' ')} }`,
      }),
      'INCONSISTENT',
      /must be the only segment/,
    ],
    [
      'unknown discards',
      vg({
        lvs: lv(
          'p',
          'extent_count = 1 type = "thin-pool" metadata = "m" pool = "d" transaction_id = 0 chunk_size = 128 discards = "maybe"',
        ),
      }),
      'BAD_FIELD',
      /passdown, nopassdown, ignore, found "maybe"/,
    ],
    [
      'thin chunk size',
      vg({
        lvs: lv(
          'p',
          'extent_count = 1 type = "thin-pool" metadata = "m" pool = "d" transaction_id = 0 chunk_size = 64',
        ),
      }),
      'OUT_OF_RANGE',
      /chunk_size/,
    ],
    [
      'unknown thin message',
      vg({
        lvs: lv(
          'p',
          'extent_count = 1 type = "thin-pool" metadata = "m" pool = "d" transaction_id = 0 chunk_size = 128 message1 { dance = 1 }',
        ),
      }),
      'BAD_FIELD',
      /a message/,
    ],
    [
      'cache settings without a policy',
      vg({ lvs: lv('p', 'extent_count = 1 type = "cache-pool" metadata = "m" data = "d" policy_settings { a = 1 }') }),
      'MISSING_FIELD',
      /policy/,
    ],
    [
      'two metadata spares',
      vg({ lvs: `${linear('a_pmspare', 0)} ${linear('b_pmspare', 9)}`.replaceAll(', "VISIBLE"', '') }),
      'INCONSISTENT',
      /pool metadata spares/,
    ],
    [
      'history of nothing',
      vg({ sections: `historical_logical_volumes { h { id = "${id('h')}" origin = "-gone" } }` }),
      'BAD_REFERENCE',
      /-gone/,
    ],
    [
      'history with nobody',
      vg({ sections: `historical_logical_volumes { h { id = "${id('h')}" descendants = [] } }` }),
      'BAD_FIELD',
      /descendants/,
    ],
  ];
  for (const [name, text, code, message] of cases) test(name, () => refused(text, code, message));
});

describe('damaged texts', () => {
  const small = diskTexts().toSorted((a, b) => a.text.length - b.text.length)[0]?.text ?? '';

  test('each byte replaced gives a value that prints and parses, or a FormatError', () => {
    assert.ok(small.length > 500);
    for (let at = 0; at < small.length; at++) {
      for (const char of ['\0', '"', '}', '{', '=', '9', String.fromCharCode(small.charCodeAt(at) ^ 1)]) {
        checkSurvives(small.slice(0, at) + char + small.slice(at + 1));
      }
    }
  });

  test('each byte flipped high, as bytes', () => {
    for (let at = 0; at < small.length; at++) {
      const bytes = Buffer.from(small);
      bytes.writeUInt8(bytes.readUInt8(at) ^ 0x80, at);
      checkSurvives(bytes);
    }
  });

  test('each truncation up to the end of the header is an error', () => {
    const end = small.indexOf('version = 1') + 'version = 1'.length;
    for (let length = 0; length < end; length++) {
      assert.throws(() => parse(small.slice(0, length)), FormatError, `${length} bytes`);
    }
    for (let length = end; length <= small.length; length++) checkSurvives(small.slice(0, length));
  });

  test('each line of each sample removed or doubled', () => {
    const samples = [...diskTexts(), ...backupTexts()].filter(({ text }) => text.length < 5000).slice(0, 30);
    for (const { text } of samples) {
      const lines = text.split('\n');
      for (let at = 0; at < lines.length; at += 3) {
        checkSurvives(lines.toSpliced(at, 1).join('\n'));
        checkSurvives(lines.toSpliced(at, 0, lines[at] ?? '').join('\n'));
      }
    }
  });
});

function checkSurvives(text: string | Buffer): void {
  let parsed: MetadataText;
  try {
    parsed = parse(text);
  } catch (error) {
    assert.ok(error instanceof FormatError, String(error));
    return;
  }
  assert.deepEqual(parse(printMetadataText(parsed, 'disk')), parsed);
}

test('a list of a million names is refused, not a crash', () => {
  const images = Array.from({ length: 1_000_000 }, (_, n) => `"x${n}"`).join(',');
  const raid = lv('r', `extent_count = 1 type = "raid1" device_count = 1000000 raids = [${images}]`);
  refused(vg({ lvs: raid }), 'BAD_REFERENCE', /x0/);
});

test('65,536 LVs, each on the one before, parse in linear time', () => {
  const count = 65536;
  const lvs = Array.from({ length: count }, (_, n) => {
    const below = n === 0 ? 'pv0' : `l${n - 1}`;
    const uuid = String(n).padStart(32, '0');
    return `l${n} { id = "${uuid}" status = [] segment_count = 1 segment1 { start_extent = 0 extent_count = 1
      type = "striped" stripe_count = 1 stripes = ["${below}", 0] } }`;
  });
  const { vg: parsed } = parse(vg({ lvs: lvs.reverse().join('\n') }));
  assert.equal(parsed.logicalVolumes.length, count);
});

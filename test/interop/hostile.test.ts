/**
 * Metadata that somebody made to do harm, under a sound label and with a right checksum: every command that changes something
 * refuses it with a clear error, and not one byte of any device changes.
 */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { withTemporaryFolder } from '../helpers/shared.ts';
import { linear, MDA_SIZE, pvHead, type PvOptions, pvUuid, vgText, writeImages } from '../lvm/images.ts';
import { ours } from '../peers/reports.ts';

const PV_BYTES = 36_864 * 512;

interface Case {
  readonly name: string;
  readonly text: string;
  readonly pv?: Partial<PvOptions>;
}

const sound = vgText([
  { name: 'a', segments: [linear(0, 4, 'pv0', 0), linear(4, 2, 'pv1', 0)] },
  { name: 'b', segments: [linear(0, 3, 'pv1', 8)] },
]);

/** The sound text with one thing changed, which must be there. */
function lie(name: string, from: string | RegExp, to: string): Case {
  const text = sound.replace(from, to);
  assert.notEqual(text, sound, name);
  return { name, text };
}

function volumes(name: string, ...lvs: Parameters<typeof vgText>[0]): Case {
  return { name, text: vgText(lvs) };
}

function segment(type: string, ...lines: readonly string[]): string {
  return ['start_extent = 0', 'extent_count = 2', '', `type = "${type}"`, ...lines].join('\n');
}

function stripe(name: string, count = 1): string {
  return segment('striped', `stripe_count = ${count}`, 'stripes = [', `"${name}", 0`, ']');
}

const counts: readonly Case[] = [
  lie('more segments announced than there are', 'segment_count = 2', 'segment_count = 3'),
  lie('fewer segments announced than there are', 'segment_count = 2', 'segment_count = 1'),
  lie('four billion segments', 'segment_count = 2', 'segment_count = 4294967295'),
  lie('no segment', 'segment_count = 1', 'segment_count = 0'),
  lie('more stripes than areas', 'stripe_count = 1', 'stripe_count = 2'),
  lie('no stripe', 'stripe_count = 1', 'stripe_count = 0'),
  lie('a negative number of stripes', 'stripe_count = 1', 'stripe_count = -1'),
  lie('extents past the PV', '"pv1", 8', '"pv1", 15'),
  lie('a PV of more extents than 32 bits count', 'pe_count = 16', 'pe_count = 4294967296'),
  lie('a PV of more extents than a number holds', 'pe_count = 16', 'pe_count = 9223372036854775807'),
];

const numbers: readonly Case[] = [
  lie('extents of nothing', 'extent_size = 2048', 'extent_size = 0'),
  lie('extents of a negative size', 'extent_size = 2048', 'extent_size = -2048'),
  lie('extents of 2^64 sectors', 'extent_size = 2048', 'extent_size = 18446744073709551616'),
  lie('a seqno of 2^63', 'seqno = 3', 'seqno = 9223372036854775808'),
  lie('an extent number of 2^64', '"pv1", 8', '"pv1", 18446744073709551615'),
  lie('an extent count of 2^64', 'extent_count = 3', 'extent_count = 18446744073709551615'),
  lie('an extent count of 0', 'extent_count = 3', 'extent_count = 0'),
  lie('a start that is negative', 'pe_start = 2048', 'pe_start = -2048'),
  lie('a start past 2^53 bytes', 'pe_start = 2048', 'pe_start = 90071992547409920'),
  lie('text for a number', 'extent_size = 2048', 'extent_size = "2048"'),
  lie('a list for a number', 'extent_size = 2048', 'extent_size = [ 2048 ]'),
];

const overlaps: readonly Case[] = [
  volumes(
    'two LVs on the same extents',
    { name: 'a', segments: [linear(0, 4, 'pv0', 0)] },
    { name: 'b', segments: [linear(0, 4, 'pv0', 3)] },
  ),
  volumes('one LV twice on the same extents', {
    name: 'a',
    segments: [linear(0, 4, 'pv0', 0), linear(4, 2, 'pv0', 3)],
  }),
  volumes('segments that overlap in the LV', { name: 'a', segments: [linear(0, 4, 'pv0', 0), linear(3, 2, 'pv0', 8)] }),
  volumes('a gap between segments', { name: 'a', segments: [linear(0, 4, 'pv0', 0), linear(5, 2, 'pv0', 8)] }),
];

const references: readonly Case[] = [
  volumes('an LV on itself', { name: 'a', segments: [stripe('a')] }),
  volumes('two LVs on each other', { name: 'a', segments: [stripe('b')] }, { name: 'b', segments: [stripe('a')] }),
  volumes(
    'three in a circle',
    { name: 'a', segments: [stripe('b')] },
    { name: 'b', segments: [stripe('c')] },
    { name: 'c', segments: [stripe('a')] },
  ),
  volumes('a snapshot of itself', {
    name: 'a',
    segments: [segment('snapshot', 'chunk_size = 8', 'origin = "a"', 'cow_store = "a"')],
  }),
  volumes('a pool that holds itself', {
    name: 'a',
    segments: [
      segment(
        'thin-pool',
        'metadata = "a"',
        'pool = "a"',
        'transaction_id = 1',
        'chunk_size = 128',
        'discards = "passdown"',
        'zero_new_blocks = 1',
      ),
    ],
  }),
  volumes('a mirror of itself', {
    name: 'a',
    segments: [segment('mirror', 'mirror_count = 2', 'mirrors = [', '"a", 0,', '"a", 0', ']')],
  }),
  volumes('a RAID of itself', {
    name: 'a',
    segments: [segment('raid1', 'device_count = 1', 'region_size = 4096', 'raids = [', '"a", "a"', ']')],
  }),
  volumes('an LV on a PV that is not there', { name: 'a', segments: [stripe('pv7')] }),
  volumes('an LV with two areas of which one is nowhere', {
    name: 'a',
    segments: [segment('striped', 'stripe_count = 2', 'stripe_size = 128', 'stripes = [', '"pv0", 0,', '"", 0', ']')],
  }),
];

const names: readonly Case[] = [
  ...['../../../tmp/x', 'a/b', '..', '.', '-rf', 'a b', 'a\u001b[2J', 'snapshot0\u0007', 'a'.repeat(200)].map((name) =>
    lie(`an LV called ${JSON.stringify(name.slice(0, 20))}`, '\nb {', `\n"${name}" {`),
  ),
  ...['../x', 'a/b', '..', '-x', 'a b', 'v'.repeat(200)].map((name) =>
    lie(`a VG called ${JSON.stringify(name.slice(0, 20))}`, 'vg1 {', `"${name}" {`),
  ),
  lie('an LV without quotes and with a slash', '\nb {', '\na/b {'),
  lie('two LVs of one name', '\nb {', '\na {'),
  lie('two LVs of one uuid', /000001"(\nstatus = \["READ")/, '000000"$1'),
  lie('two PVs of one uuid', pvUuid(1), pvUuid(0)),
  lie('a uuid with a slash', pvUuid(1), 'PvPvPv-PvPv-PvPv-PvPv-PvPv-PvPv-../../'),
  lie('a label of a PV with a slash', /pv1/g, '"../pv1"'),
];

const grammar: readonly Case[] = [
  { name: 'ten thousand sections in each other', text: `${'a {\n'.repeat(10_000)}${'}\n'.repeat(10_000)}` },
  { name: 'ten thousand lists in each other', text: sound.replace('seqno = 3', `x = ${'['.repeat(10_000)}`) },
  { name: 'a string without an end', text: sound.replace('"test"\n', '"test') },
  { name: 'a section without an end', text: sound.replaceAll('}', '') },
  { name: 'no word of it', text: '\u00ff\u00fe\u0001'.repeat(300) },
  { name: 'nothing but a comment', text: '# nothing\n' },
  { name: 'a NUL in the middle', text: sound.replace('extent_size', 'ext\0ent_size') },
  lie('no physical volumes', 'physical_volumes {', 'other_volumes {'),
  lie('no extent size', 'extent_size = 2048\n', ''),
  lie('another format', 'format = "lvm2"', 'format = "lvm9"'),
  lie('status words that are numbers', '["READ", "WRITE", "VISIBLE"]', '[1, 2, 3]'),
];

const headers: readonly Case[] = [
  { name: 'a text past the end of its area', text: sound, pv: { slot: (locn) => ({ ...locn, offset: MDA_SIZE - 8 }) } },
  { name: 'a text of 2^60 bytes', text: sound, pv: { slot: (locn) => ({ ...locn, size: 2 ** 52 }) } },
  { name: 'a text in the header', text: sound, pv: { slot: (locn) => ({ ...locn, offset: 8 }) } },
  { name: 'a wrong checksum', text: sound, pv: { slot: (locn) => ({ ...locn, checksum: locn.checksum + 1 }) } },
];

/** A command line for each command that changes something. */
function commands(pv: string, other: string, backup: string): readonly (readonly string[])[] {
  return [
    ['lvcreate', '-l', '1', '-n', 'new', 'vg1'],
    ['lvcreate', '--type', 'error', '-l', '1', 'vg1'],
    ['lvremove', '-ff', 'vg1/a'],
    ['lvremove', '-ff', 'vg1'],
    ['lvextend', '-l', '+1', 'vg1/a'],
    ['lvreduce', '-f', '-l', '1', 'vg1/a'],
    ['lvresize', '-f', '-L', '1m', 'vg1/a'],
    ['lvrename', 'vg1/a', 'c'],
    ['lvchange', '--addtag', 'x', 'vg1/a'],
    ['lvconvert', '--merge', 'vg1/a'],
    ['lvconvert', '--splitsnapshot', 'vg1/a'],
    ['lvconvert', '-y', '-s', 'vg1/a', 'vg1/b'],
    ['lvpoll', '--polloperation', 'merge', 'vg1/a'],
    ['vgchange', '--addtag', 'x', 'vg1'],
    ['vgchange', '-s', '512k', 'vg1'],
    ['vgchange', '-u', 'vg1'],
    ['vgextend', 'vg1', other],
    ['vgreduce', 'vg1', other],
    ['vgreduce', '--removemissing', '--force', 'vg1'],
    ['vgrename', 'vg1', 'vg2'],
    ['vgremove', '-f', 'vg1'],
    ['vgexport', 'vg1'],
    ['vgimport', 'vg1'],
    ['vgsplit', 'vg1', 'vg2', other],
    ['vgck', '--updatemetadata', 'vg1'],
    ['vgcreate', 'vg2', pv],
    ['vgextend', 'vg2', pv],
    ['pvcreate', pv],
    ['pvremove', pv],
    ['pvchange', '--addtag', 'x', pv],
    ['pvchange', '-u', pv],
    ['pvresize', pv],
    ['pvmove', pv],
    ['vgcfgrestore', '-f', backup, 'vg1'],
  ];
}

async function hashOf(paths: readonly string[]): Promise<string> {
  const hash = createHash('sha256');
  for (const path of paths) for await (const chunk of createReadStream(path)) hash.update(chunk as Buffer);
  return hash.digest('hex');
}

/** When each was written to, to the nanosecond. */
function timesOf(paths: readonly string[]): Promise<readonly bigint[]> {
  return Promise.all(paths.map(async (path) => (await stat(path, { bigint: true })).mtimeNs));
}

async function withImages(
  { text, pv }: Case,
  use: (images: readonly string[], folder: string) => Promise<void>,
): Promise<void> {
  await withTemporaryFolder(async (folder) => {
    await mkdir(join(folder, 'lock'));
    const locks = `global { locking_dir = "${join(folder, 'lock')}" }`;
    await writeFile(join(folder, 'lvm.conf'), `${locks}\nbackup { backup = 0 archive = 0 }\n`);
    await writeFile(join(folder, 'backup'), text, 'latin1');
    const images = [0, 1].map((index) => ({
      path: join(folder, `pv${index}`),
      head: pvHead({ uuid: pvUuid(index), sizeBytes: PV_BYTES, text, ...pv }),
      sizeBytes: PV_BYTES,
    }));
    const spare = { path: join(folder, 'spare'), head: Buffer.alloc(0), sizeBytes: PV_BYTES };
    await use(await writeImages([...images, spare]), folder);
  });
}

async function refused(item: Case): Promise<void> {
  await withImages(item, async (images, folder) => {
    const [pv = '', other = ''] = images;
    const before = await hashOf(images);
    const touched = await timesOf(images);
    for (const [command = '', ...args] of commands(pv, other, join(folder, 'backup'))) {
      // The cure, where the text itself is sound.
      if (command === 'vgcfgrestore' && item.text === sound) continue;
      const argv = [command, '--devices', images.join(','), ...args, '-y'];
      const { status, stdout, stderr } = await ours(argv, { LVM_SYSTEM_DIR: folder });
      const said = `${command} ${args.join(' ')}: ${status}\n${stdout}${stderr}`;
      assert.ok(status === 5 || status === 3, said);
      assert.match(stderr, /\S/, said);
      assert.doesNotMatch(said, /Internal error|\bat .*\.ts:/, said);
      // oxlint-disable-next-line no-control-regex -- what a terminal would obey
      assert.doesNotMatch(said, /[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/, JSON.stringify(said));
      assert.deepEqual(await timesOf(images), touched, `written by ${said}`);
    }
    assert.equal(await hashOf(images), before);
  });
}

void describe('hostile metadata', () => {
  void test('the text that is made worse is itself sound', async () => {
    await withImages({ name: '', text: sound }, async (images, folder) => {
      const argv = ['lvcreate', '--devices', images.join(','), '-l', '1', '-Zn', '-Wn', '-n', 'new', 'vg1', '-y'];
      const { status, stderr } = await ours(argv, { LVM_SYSTEM_DIR: folder });
      assert.equal(status, 0, stderr);
    });
  });
  void test('no PV is made for a group that cannot be read', async () => {
    await withImages(lie('an extent count of 0', 'extent_count = 3', 'extent_count = 0'), async (images, folder) => {
      const before = await hashOf(images);
      const argv = ['vgextend', '--devices', images.join(','), 'vg1', images[2] ?? '', '-y'];
      const { status, stdout } = await ours(argv, { LVM_SYSTEM_DIR: folder });
      assert.deepEqual([status, stdout], [5, '']);
      assert.equal(await hashOf(images), before);
    });
  });
  const groups = { counts, numbers, overlaps, references, names, grammar, headers };
  for (const [group, cases] of Object.entries(groups)) {
    for (const item of cases) void test(`${group}: ${item.name}`, () => refused(item));
  }
});

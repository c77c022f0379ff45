/** LV -> table: what is served, how, and the reasons why the rest is not. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { open } from 'node:fs/promises';
import { describe, test } from 'node:test';
import { PLAIN_HOST } from '../../src/lvm/access.ts';
import { activationPlan } from '../../src/lvm/activate.ts';
import type { ActivationOptions, LvActivation } from '../../src/lvm/activate.ts';
import type { VolumeGroup } from '../../src/lvm/model.ts';
import { scanDevices } from '../../src/lvm/scan.ts';
import type { LinearParams, StripedParams, Table } from '../../src/dm/table.ts';
import { unpackGolden, withTemporaryFolder } from '../helpers/shared.ts';
import { diskTexts } from '../ondisk/samples.ts';
import { changed, groupOf, imagesOf, linear, pvUuid, scanImages, vgText } from './images.ts';
import type { LvSpec } from './images.ts';

const OPTIONS: ActivationOptions = { host: PLAIN_HOST };

/** The plan's word about one LV: its table, or the reason. */
function entry(group: VolumeGroup, name: string, options: ActivationOptions = OPTIONS): LvActivation {
  const found = activationPlan(group, options).find((candidate) => candidate.lv.name === name);
  assert.ok(found, `${name} is in the plan`);
  return found;
}

function reason(group: VolumeGroup, name: string, options: ActivationOptions = OPTIONS): string {
  const found = entry(group, name, options);
  assert.ok(!found.active, `${name} is not served`);
  return found.reason;
}

async function planned(lv: Partial<LvSpec>, vg?: string): Promise<VolumeGroup> {
  const whole = { name: 'a', segments: [linear(0, 2, 'pv0', 3)], ...lv };
  return groupOf(vgText([whole], vg === undefined ? {} : { vg }));
}

/** Body of a segment of a type without areas. */
function areaLess(start: number, type: string): string {
  return `start_extent = ${start}\nextent_count = 1\n\ntype = "${type}"`;
}

async function sample(name: string): Promise<VolumeGroup> {
  const text = diskTexts().find((candidate) => candidate.name === `${name}.raw`)?.text;
  assert.ok(text !== undefined, name);
  return groupOf(text);
}

describe('tables', () => {
  test('a linear LV in two segments', async () => {
    const found = entry(await planned({ segments: [linear(0, 2, 'pv0', 3), linear(2, 1, 'pv1', 0)] }), 'a');
    assert.ok(found.active);
    assert.equal(found.exportName, 'vg1/a');
    assert.deepEqual(found.table, [
      { start: 0, length: 4096, target: 'linear', params: { device: '/img/pv0', offset: 2048 + 3 * 2048 } },
      { start: 4096, length: 2048, target: 'linear', params: { device: '/img/pv1', offset: 2048 } },
    ]);
    assert.deepEqual(found.devices, ['/img/pv0', '/img/pv1']);
    assert.equal(found.readOnly, false);
    assert.equal(found.note, undefined);
  });

  test('stripes, error and zero', async () => {
    const striped =
      'start_extent = 0\nextent_count = 4\n\ntype = "striped"\nstripe_count = 2\nstripe_size = 128\n\n' +
      'stripes = [\n"pv1", 2,\n"pv0", 0\n]';
    const found = entry(await planned({ segments: [striped, areaLess(4, 'error'), areaLess(5, 'zero')] }), 'a');
    assert.ok(found.active);
    assert.deepEqual(found.table, [
      {
        start: 0,
        length: 8192,
        target: 'striped',
        params: {
          chunkSize: 128,
          stripes: [
            { device: '/img/pv1', offset: 2048 + 2 * 2048 },
            { device: '/img/pv0', offset: 2048 },
          ],
        },
      },
      { start: 8192, length: 2048, target: 'error', params: {} },
      { start: 10240, length: 2048, target: 'zero', params: {} },
    ]);
  });

  test('the bytes of golden basic', async () => {
    await withTemporaryFolder(async (folder) => {
      const golden = await unpackGolden('basic', folder);
      const [group] = (await scanDevices(golden.images)).volumeGroups;
      assert.ok(group);
      assert.deepEqual(
        activationPlan(group, OPTIONS)
          .map((found) => found.lv.name)
          .toSorted(),
        golden.volumes.map((volume) => volume.name).toSorted(),
      );
      for (const volume of golden.volumes) {
        const found = entry(group, volume.name);
        assert.ok(found.active);
        assert.equal(await hashOf(found.table), volume.sha256, volume.name);
      }
    });
  });
});

describe('never served wrongly', () => {
  test('an external origin is read-only even if it is flagged writable', async () => {
    const text = diskTexts().find((candidate) => candidate.name === '06c-thin.raw')?.text ?? '';
    const writable = text.replace(/(ext \{\nid = "[^"]*"\nstatus = \["READ")(, "VISIBLE"\])/, '$1, "WRITE"$2');
    assert.notEqual(writable, text);
    const ext = entry(await groupOf(writable), 'ext');
    assert.ok(ext.active && ext.readOnly);
    assert.match(ext.note ?? '', /external origin of thin LV fromext/);
  });

  for (const [name, lv, expected] of [
    ['03-mirror', 'mcore', /LV type mirror is not supported yet/],
    ['04-raid', 'raid5_la', /LV type raid5_la is not supported yet/],
    ['04-raid', 'raid0', /LV type raid0 is not supported yet/],
    ['06c-thin', 'pool', /LV type thin-pool is not supported yet/],
    ['06c-thin', 'thin1', /LV type thin is not supported yet/],
    ['07a-cachepool-unused', 'cpool', /LV type cache-pool is not supported yet/],
    ['07b-cache', 'main', /LV type cache is not supported yet/],
    ['08-writecache', 'main3', /LV type writecache is not supported yet/],
  ] as const) {
    test(`${lv} of ${name}`, async () => {
      assert.match(reason(await sample(name), lv), expected);
    });
  }

  test('an LV on a pvmove that is no mirror', async () => {
    const group = await planned({});
    const text = vgText([
      { name: 'a', segments: [linear(0, 2, 'pvmove0', 0)] },
      { name: 'pvmove0', status: '["READ", "WRITE", "PVMOVE"]', segments: [linear(0, 2, 'pv0', 3)] },
    ]);
    assert.ok(entry(group, 'a').active);
    assert.match(reason(await groupOf(text), 'a'), /on pvmove0, a pvmove of a form that is not supported/);
  });

  test('hidden LVs are not in the plan at all', async () => {
    const group = await sample('04-raid');
    assert.ok(activationPlan(group, OPTIONS).every((found) => !/_r(?:image|meta)_/.test(found.lv.name)));
  });

  test('a part that is visible is not served by itself', async () => {
    const text = diskTexts().find((candidate) => candidate.name === '04-raid.raw')?.text ?? '';
    const split = text.replace(/(raid1_rimage_1 \{\nid = "[^"]*"\nstatus = \["READ", "WRITE")/, '$1, "VISIBLE"');
    assert.notEqual(split, text);
    assert.match(reason(await groupOf(split), 'raid1_rimage_1'), /part of LV raid1 \(raid-image\)/);
  });

  test('an unknown segment type is named', async () => {
    const segment = 'start_extent = 0\nextent_count = 2\n\ntype = "future+ODD"\nfield = 1';
    assert.match(reason(await planned({ segments: [segment] }), 'a'), /unrecognised segment type future/);
  });

  test('a flag on the segment type is not passed over', async () => {
    const segment = linear(0, 2, 'pv0', 3).replace('"striped"', '"striped+RESHAPE"');
    const { volumeGroups } = await scanImages(imagesOf(vgText([{ name: 'a', segments: [segment] }])));
    for (const group of volumeGroups) assert.match(reason(group, 'a'), /RESHAPE|unrecognised/);
  });
});

describe('flags and permissions', () => {
  test('ACTIVATION_SKIP is honoured and can be overridden', async () => {
    const group = await planned({ flags: '["ACTIVATION_SKIP"]' });
    assert.match(reason(group, 'a'), /ACTIVATION_SKIP/);
    assert.ok(entry(group, 'a', { ...OPTIONS, ignoreActivationSkip: true }).active);
  });

  test('NOAUTOACTIVATE of the LV and of the VG', async () => {
    const one = await planned({ flags: '["NOAUTOACTIVATE"]' });
    const all = await planned({}, 'status = ["RESIZEABLE", "READ", "WRITE"]\nflags = ["NOAUTOACTIVATE"]');
    for (const group of [one, all]) {
      assert.match(reason(group, 'a'), /NOAUTOACTIVATE/);
      assert.ok(entry(group, 'a', { ...OPTIONS, ignoreNoAutoActivate: true }).active);
    }
  });

  for (const [what, make] of [
    ['an LV without WRITE', () => planned({ status: '["READ", "VISIBLE"]' })],
    ['a VG without WRITE', () => planned({}, 'status = ["RESIZEABLE", "READ"]\nflags = []')],
  ] as const) {
    test(`${what} is read-only`, async () => {
      const found = entry(await make(), 'a');
      assert.ok(found.active && found.readOnly);
      assert.match(found.note ?? '', /^read-only: /);
    });
  }

  test('WRITE_LOCKED is WRITE', async () => {
    const found = entry(await planned({ status: '["READ", "VISIBLE"]', flags: '["WRITE_LOCKED"]' }), 'a');
    assert.ok(found.active && !found.readOnly);
  });

  test('a read-only device, and read-only by option', async () => {
    const images = imagesOf(
      vgText([
        { name: 'a', segments: [linear(0, 2, 'pv0', 3)] },
        { name: 'b', segments: [linear(0, 2, 'pv1', 3)] },
      ]),
    );
    const scan = await scanImages(images.map((image, index) => changed(image, { readOnly: index === 0 })));
    const [group] = scan.volumeGroups;
    assert.ok(group);
    const [a, b] = [entry(group, 'a'), entry(group, 'b')];
    assert.ok(a.active && a.readOnly && b.active && !b.readOnly);
    assert.match(a.note ?? '', /\/img\/pv0 is read-only/);
    const forced = entry(group, 'b', { ...OPTIONS, readOnly: true });
    assert.ok(forced.active && forced.readOnly);
  });

  test('exported, foreign, shared and clustered VGs are refused in the words of LVM2', async () => {
    const status = 'status = ["RESIZEABLE", "READ", "WRITE"]\nflags = []';
    const cases = [
      [status.replace('"RESIZEABLE"', '"EXPORTED"'), 'Volume group vg1 is exported'],
      [`${status}\nsystem_id = "other"`, 'Cannot access VG vg1 with system ID other with unknown local system ID.'],
      [`${status}\nlock_type = "sanlock"`, 'Cannot access VG vg1 with lock type sanlock that requires lvmlockd.'],
      [status.replace('"RESIZEABLE"', '"CLUSTERED"'), 'Cannot access clustered VG vg1.'],
    ] as const;
    for (const [vg, message] of cases) assert.equal(reason(await planned({}, vg), 'a'), message);
    const foreign = await planned({}, `${status}\nsystem_id = "other"`);
    const mine = { ...PLAIN_HOST, systemId: 'me' };
    assert.equal(
      reason(foreign, 'a', { host: mine }),
      'Cannot access VG vg1 with system ID other with local system ID me.',
    );
    assert.ok(!entry(foreign, 'a', { host: { ...mine, allowForeign: true } }).active, '--foreign is for looking only');
    assert.ok(entry(foreign, 'a', { host: { ...mine, extraSystemIds: ['other'] } }).active);
    assert.ok(entry(foreign, 'a', { host: { ...mine, systemId: 'other' } }).active);
  });
});

describe('missing and doubtful devices', () => {
  const text = vgText([
    { name: 'left', segments: [linear(0, 2, 'pv0', 3)] },
    { name: 'right', segments: [linear(0, 2, 'pv1', 3)] },
    { name: 'both', segments: [linear(0, 2, 'pv0', 8), linear(2, 2, 'pv1', 8)] },
  ]);

  test('what does not touch the missing PV is served; the rest names it', async () => {
    const [group] = (await scanImages(imagesOf(text).slice(0, 1))).volumeGroups;
    assert.ok(group?.partial);
    assert.ok(entry(group, 'left').active);
    for (const name of ['right', 'both']) {
      assert.equal(reason(group, name), `physical volume ${pvUuid(1)} (last written to /img/pv1) is missing`);
    }
  });

  test('asked for, what is on the missing PV is errors', async () => {
    const [group] = (await scanImages(imagesOf(text).slice(0, 1))).volumeGroups;
    assert.ok(group !== undefined);
    const partial = { ...OPTIONS, partial: true };
    const both = entry(group, 'both', partial);
    assert.ok(both.active);
    assert.deepEqual(both.table, [
      { start: 0, length: 4096, target: 'linear', params: { device: '/img/pv0', offset: 2048 + 8 * 2048 } },
      { start: 4096, length: 4096, target: 'error', params: {} },
    ]);
    assert.deepEqual(both.devices, ['/img/pv0']);
    assert.deepEqual(entry(group, 'left', partial), entry(group, 'left'));
  });

  test('a stripe on the missing PV is errors', async () => {
    const striped = 'start_extent = 0\nextent_count = 4\n\ntype = "striped"\nstripe_count = 2\nstripe_size = 128\n';
    const body = `${striped}\nstripes = [\n"pv0", 0,\n"pv1", 0\n]`;
    const images = imagesOf(vgText([{ name: 'a', segments: [body] }]));
    const [group] = (await scanImages(images.slice(0, 1))).volumeGroups;
    assert.ok(group !== undefined);
    const found = entry(group, 'a', { ...OPTIONS, partial: true });
    assert.ok(found.active);
    const table = [{ start: 0, length: 4096, target: 'error', params: {} }];
    const stripes = [
      { device: '/img/pv0', offset: 2048 },
      { device: { name: 'vg1/pv1-missing', table }, offset: 0 },
    ];
    assert.deepEqual(found.table, [{ start: 0, length: 8192, target: 'striped', params: { chunkSize: 128, stripes } }]);
  });

  test('a PV flagged MISSING that came back with old data is not touched', async () => {
    const flagged = text.replace(/(pv1 \{[^}]*?flags = )\[\]/, '$1["MISSING"]');
    const group = await groupOf(flagged);
    assert.ok(entry(group, 'left').active);
    assert.match(reason(group, 'right'), /is missing/);
  });

  test('duplicates keep the whole VG inactive', async () => {
    const images = imagesOf(text);
    const copies = images.slice(1).map((image) => changed(image, { path: '/img/copy' }));
    const scan = await scanImages([...images, ...copies]);
    const [group] = scan.volumeGroups;
    assert.ok(group?.hasDuplicates);
    assert.deepEqual(
      scan.duplicates.map((found) => found.device.path),
      ['/img/copy'],
    );
    for (const name of ['left', 'right']) {
      assert.equal(reason(group, name), 'Cannot activate LVs in VG vg1 while PVs appear on duplicate devices.');
    }
  });

  test('a device that ends before the volume does', async () => {
    const images = imagesOf(text).map((image, index) => changed(image, index === 0 ? { sizeBytes: 8 << 20 } : {}));
    const [group] = (await scanImages(images)).volumeGroups;
    assert.ok(group);
    assert.ok(entry(group, 'left').active, 'it ends before byte 8 MiB');
    assert.match(reason(group, 'both'), /device \/img\/pv0 has 8388608 bytes, .* was it resized\?/);
  });
});

/** Reads what a table maps straight from the images. */
async function hashOf(table: Table): Promise<string> {
  const hash = createHash('sha256');
  for (const line of table) {
    const striped = line.target === 'striped';
    const params = line.params as StripedParams & LinearParams;
    const stripes: readonly LinearParams[] = striped ? params.stripes : [params];
    const chunk = striped ? params.chunkSize : line.length;
    for (let sector = 0; sector < line.length; sector += chunk) {
      const row = Math.floor(sector / chunk / stripes.length);
      const stripe = stripes[(sector / chunk) % stripes.length];
      assert.ok(typeof stripe?.device === 'string');
      hash.update(await readSectors(stripe.device, stripe.offset + row * chunk, chunk));
    }
  }
  return hash.digest('hex');
}

async function readSectors(path: string, start: number, count: number): Promise<Buffer> {
  const file = await open(path, 'r');
  try {
    const buffer = Buffer.alloc(count * 512);
    await file.read(buffer, 0, buffer.length, start * 512);
    return buffer;
  } finally {
    await file.close();
  }
}

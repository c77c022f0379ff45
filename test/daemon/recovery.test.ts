/** The daemon's auto_recovery: when it runs a command, and when it does not. */
import assert from 'node:assert/strict';
import { open, readFile, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import type { CommandEvent, CommandRequest } from '../../src/daemon/client/messages.ts';
import { pino } from 'pino';
import { MetadataRecovery } from '../../src/daemon/recovery.ts';
import type { Scan, VolumeGroup } from '../../src/lvm/model.ts';
import { scanDevices } from '../../src/lvm/scan.ts';
import { startDaemon, waitFor } from '../helpers/daemon.ts';
import { mustRun } from '../helpers/run.ts';
import { CHECKOUT, withTemporaryFolder } from '../helpers/shared.ts';
import { group, pv, vg } from '../lvm/edit/groups.ts';

interface Ran {
  readonly request: CommandRequest;
  readonly tell: (event: CommandEvent) => void;
}

/** A recovery whose commands are ended by the test. */
function recovery(accepts = true): { readonly look: (...groups: VolumeGroup[]) => void; readonly ran: Ran[] } {
  const ran: Ran[] = [];
  const runner = {
    start(request: CommandRequest, tell: (event: CommandEvent) => void) {
      if (!accepts) return null;
      ran.push({ request, tell });
      return { id: String(ran.length), answer: () => undefined, cancel: () => undefined };
    },
  };
  const it = new MetadataRecovery({
    runner,
    own: () => ({ configFile: '/etc/lvm.toml', devices: ['/a', '/b'] }),
    log: pino({ level: 'silent' }),
  });
  return { look: (...volumeGroups) => it.look(scanOf(volumeGroups)), ran };
}

function scanOf(volumeGroups: readonly VolumeGroup[]): Scan {
  return { devices: [], volumeGroups, orphans: [], duplicates: [], unreadable: [], warnings: [] };
}

const SOUND = group(vg([pv(16)], []));
const STALE: VolumeGroup = {
  ...SOUND,
  staleAreas: [{ devicePath: '/dev/pv0', areaIndex: 0, reason: 'seqno 1 instead of 2', repairable: true }],
};

describe('the daemon repairs metadata', () => {
  test('when a copy is stale, once', () => {
    const { look, ran } = recovery();
    look(SOUND);
    assert.equal(ran.length, 0);
    look(STALE);
    look(STALE);
    assert.deepEqual(
      ran.map(({ request }) => [request.name, request.argv, request.configFile, request.env['ORION_LVM_DEVICES']]),
      [['vgck', [], '/etc/lvm.toml', '/a,/b']],
    );
    ran[0]?.tell({ type: 'exit', code: 5 });
    look(STALE);
    assert.equal(ran.length, 1, 'what can not be repaired is not tried for ever');
    look({ ...STALE, vg: { ...STALE.vg, seqno: STALE.vg.seqno + 1 } });
    assert.equal(ran.length, 2, 'but again when it has changed');
  });

  test('again when it comes back', () => {
    const { look, ran } = recovery();
    look(STALE);
    ran[0]?.tell({ type: 'exit', code: 0 });
    look(SOUND);
    look(STALE);
    assert.equal(ran.length, 2);
  });

  test('not of a VG whose PVs are missing, nor what nothing can be done about', () => {
    const { look, ran } = recovery();
    look({ ...STALE, partial: true });
    look({ ...STALE, staleAreas: STALE.staleAreas.map((area) => ({ ...area, repairable: false })) });
    assert.equal(ran.length, 0);
  });

  test('never where it is not asked for', () => {
    const runner = { start: (): never => assert.fail('a command was run') };
    const it = new MetadataRecovery({ runner, own: () => null, log: pino({ level: 'silent' }) });
    it.look(scanOf([STALE]));
  });

  test('later, if too many commands wait', () => {
    const { look, ran } = recovery(false);
    look(STALE);
    look(STALE);
    assert.equal(ran.length, 0);
  });
});

void test('a running daemon repairs a stale copy when it starts', () =>
  withTemporaryFolder(async (folder) => {
    const images = [join(folder, 'pv0'), join(folder, 'pv1')];
    const [first = '', second = ''] = images;
    const config = join(folder, 'lvm.toml');
    const lvm = (...argv: readonly string[]): Promise<string> => {
      const env = { ORION_LVM_DEVICES: images.join(','), LVM_SYSTEM_DIR: folder };
      return mustRun(join(CHECKOUT, 'bin/orion-lvm'), argv, { cwd: folder, env });
    };
    for (const image of images) {
      await writeFile(image, '');
      await truncate(image, 16 << 20);
    }
    await lvm('vgcreate', 'vg', first, second);
    await lvm('lvcreate', '-an', '-Zn', '-l1', '-n', 'lv', 'vg');
    const old = (await readFile(second)).subarray(0, 1 << 20);
    await lvm('vgchange', '--addtag', 't', 'vg');
    const file = await open(second, 'r+');
    await file.write(old, 0, old.length, 0);
    await file.close();
    await writeFile(config, `devices = ${JSON.stringify(images)}\nauto_recovery = true\n`);
    const daemon = await startDaemon(images, ['--config', config, '--workers', '0']);
    try {
      await waitFor('the repair', () => daemon.log().includes('stale and damaged metadata repaired'));
      const { volumeGroups } = await scanDevices(images);
      assert.deepEqual(volumeGroups[0]?.staleAreas, []);
      assert.deepEqual(volumeGroups[0]?.vg.tags, ['t']);
    } finally {
      assert.equal(await daemon.stop(), 0, daemon.log());
    }
  }));

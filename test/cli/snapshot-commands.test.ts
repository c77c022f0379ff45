/**
 * Commands about COW snapshots: sizes and messages are those of LVM2 2.03.16 (noted from its lvcreate and lvresize), LVM2 accepts what
 * is stored, and with a daemon the snapshot has what the origin had while clients write on.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { open, readFile, truncate, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { describe, test } from 'node:test';
import { startDaemon, waitFor } from '../helpers/daemon.ts';
import { NbdWriter } from '../helpers/nbd-writer.ts';
import { mustRun, type Outcome, runProgram } from '../helpers/run.ts';
import { CHECKOUT, withTemporaryFolder } from '../helpers/shared.ts';
import { withLvm2 } from '../lvm/lvm2.ts';

const MIB = 2 ** 20;

interface Stand {
  readonly folder: string;
  readonly image: string;
  readonly env: NodeJS.ProcessEnv;
  readonly run: (command: string, ...args: readonly string[]) => Promise<Outcome>;
  readonly must: (command: string, ...args: readonly string[]) => Promise<string>;
}

function bin(command: string): string {
  return join(CHECKOUT, 'bin', command);
}

function standOf(folder: string, control: string): Stand {
  const image = join(folder, 'pv0');
  const env = { ORION_LVM_DEVICES: image, ORION_LVM_CONTROL: control, LVM_SYSTEM_DIR: folder };
  return {
    folder,
    image,
    env,
    run: (command, ...args) => runProgram(bin(command), args, { cwd: folder, env }),
    must: (command, ...args) => mustRun(bin(command), args, { cwd: folder, env }),
  };
}

/** A VG with vg/o of 40 MiB. */
async function withStand(use: (stand: Stand) => Promise<void>): Promise<void> {
  await withTemporaryFolder(async (folder) => {
    const stand = standOf(folder, '');
    await writeFile(stand.image, '');
    await truncate(stand.image, 256 * MIB);
    await stand.must('vgcreate', 'vg', stand.image);
    await stand.must('lvcreate', '-L40M', '-no', 'vg');
    await use(stand);
  });
}

async function volumes(stand: Stand): Promise<readonly string[]> {
  const fields = 'lv_name,lv_attr,lv_size,origin,chunksize,data_percent';
  const text = await stand.must('lvs', '-a', '--noheadings', '--separator', ' ', '-o', fields, 'vg');
  return text.split('\n').flatMap((line) => (line.trim() === '' ? [] : [line.trim()]));
}

/** Writes the first `mib` MiB of an export. */
async function fill(uri: string, mib: number): Promise<void> {
  const job = `--name=f --ioengine=nbd --uri=${uri} --rw=write --bs=64k --iodepth=8 --size=${mib}m --end_fsync=1`;
  await mustRun('fio', job.split(' '));
}

describe('without a daemon', () => {
  test('snapshots are as large as in LVM2, which accepts them', async () => {
    await withStand(async (stand) => {
      const { must } = stand;
      await must('lvcreate', '-s', '-L8M', '-ns', 'vg/o');
      await must('lvcreate', '-s', '-l50%ORIGIN', '-c16k', '-nt', '--addtag', 'x', 'vg/o');
      assert.match(
        await must('lvcreate', '-s', '-L100M', '-pr', 'vg/o'),
        /^ {2}Reducing COW size 100\.00 MiB down to maximum usable size 44\.00 MiB\.\n {2}Logical volume "lvol0" created\.$/m,
      );
      await must('lvcreate', '-s', '-l100%ORIGIN', '-c512k', '-nu', 'vg/o');
      await must('lvcreate', '--type', 'snapshot', '-V100M', '-L8M', '-nsp', 'vg');
      assert.deepEqual(await volumes(stand), [
        'lvol0 sri---s--- 44.00m o 4.00k',
        'o owi---s--- 40.00m  0',
        's swi---s--- 8.00m o 4.00k',
        'sp swi---s--- 8.00m [sp_vorigin] 4.00k',
        '[sp_vorigin] ori---s--- 100.00m  0',
        't swi---s--- 24.00m o 16.00k',
        'u swi---s--- 44.00m o 512.00k',
      ]);
      await withLvm2([stand.image], async (lvm) => {
        const checked = await lvm.run('vgck', 'vg');
        assert.equal(checked.status, 0, checked.stderr);
        const report = await lvm.run('lvs', '--noheadings', '--separator', ' ', '-o', 'lv_name,origin,lv_size', 'vg');
        assert.match(report.stdout, /^ +t o 24\.00m$/m, report.stderr);
      });
      assert.match(await must('lvremove', '-f', 'vg/o', 'vg/sp'), /"u" successfully[^]*"o" successfully/);
      assert.deepEqual(await volumes(stand), []);
    });
  });

  test('what is at the head of a new store is no snapshot', async () => {
    await withStand(async (stand) => {
      const file = await open(stand.image, 'r+');
      try {
        // The magic of a COW store, valid, with version 1 and chunks of 8 sectors, at the extent that is allocated next.
        const header = Buffer.alloc(16);
        header.write('SnAp', 'latin1');
        header.writeUInt32LE(1, 4);
        header.writeUInt32LE(1, 8);
        header.writeUInt32LE(8, 12);
        await file.write(header, 0, 16, 41 * MIB);
        await stand.must('lvcreate', '-s', '-l2', '-c8k', '-ns', 'vg/o');
        const { buffer } = await file.read(Buffer.alloc(8192, 1), 0, 8192, 41 * MIB);
        assert.ok(buffer.every((byte) => byte === 0));
      } finally {
        await file.close();
      }
    });
  });

  test('stores and inactive origins grow as in LVM2', async () => {
    await withStand(async ({ must, run }) => {
      await must('lvcreate', '-s', '-L8M', '-ns', 'vg/o');
      await must('lvcreate', '-s', '-l50%ORIGIN', '-c16k', '-nt', 'vg/o');
      const changes: readonly (readonly [string, RegExp])[] = [
        ['lvextend -L+4M vg/s', /vg\/s changed from 8\.00 MiB \(2 extents\) to 12\.00 MiB \(3 extents\)/],
        ['lvextend -L+100M vg/s', /Reached maximum COW size 44\.00 MiB \(11 extents\)\.\n.*to 44\.00 MiB \(11 ext/],
        ['lvextend -L+100M vg/s', /Reached maximum COW.*\n.*unchanged from 44\.00 MiB[^]*successfully resized/],
        ['lvreduce -f -L4M vg/s', /changed from 44\.00 MiB \(11 extents\) to 4\.00 MiB \(1 extents\)/],
        ['lvrename vg/o vg/oo', /Renamed "o" to "oo"/],
        ['lvextend -L+4M vg/oo', /vg\/oo changed from 40\.00 MiB \(10 extents\) to 44\.00 MiB \(11 extents\)/],
        ['lvresize -l+50%ORIGIN vg/t', /from 24\.00 MiB \(6 extents\) to 48\.00 MiB \(12 extents\)/],
        ['lvresize -l100%ORIGIN vg/t', /from 48\.00 MiB \(12 extents\) to 44\.00 MiB \(11 extents\)/],
      ];
      for (const [line, expected] of changes) {
        const [command = '', ...args] = line.split(' ');
        assert.match(await must(command, ...args), expected, line);
      }
      const { status, stderr } = await run('lvreduce', '-f', '-L4M', 'vg/oo');
      assert.equal(status, 5);
      assert.match(stderr, /Snapshot origin volumes cannot be reduced in size yet\./);
    });
  });

  test('what cannot be is refused in LVM2 words', async () => {
    await withStand(async ({ must, run }) => {
      await must('lvcreate', '-s', '-L8M', '-ns', 'vg/o');
      const refused: readonly (readonly [string, number, string])[] = [
        ['lvcreate -s -L8M vg/s', 5, 'Snapshots of snapshots are not supported.'],
        ['lvcreate -s -L8M vg/nope', 5, 'Snapshot origin LV nope not found in Volume group vg.'],
        ['lvcreate -s vg/o', 5, 'Please specify either size or extents with snapshots.'],
        ['lvcreate -s -L8M -c 3k vg/o', 3, 'Chunk size must be a power of 2 in the range 4K to 512K.'],
        ['lvcreate -s -l5%LV vg/o', 5, 'Please express size as %FREE, %ORIGIN, %PVS or %VG.'],
        ['lvcreate -s -L8M o', 3, 'The origin name should include the volume group.'],
        ['lvcreate -c 8k -L8M vg', 3, 'Command does not accept option: --chunksize 8k.'],
        ['lvcreate -s -L8M -n s vg/o', 5, 'Logical Volume "s" already exists in volume group "vg"'],
      ];
      for (const [line, code, message] of refused) {
        const [command = '', ...args] = line.split(' ');
        const outcome = await run(command, ...args);
        assert.equal(outcome.status, code, `${line}: ${outcome.stderr}`);
        assert.ok(outcome.stderr.includes(`  ${message}\n`), `${line}: ${outcome.stderr}`);
      }
    });
  });
});

for (const workers of ['0', '2']) {
  test(`with --workers ${workers} snapshots come and go under writes`, { timeout: 120_000 }, async (t) => {
    await withStand(async ({ folder, image }) => {
      const daemon = await startDaemon([image], ['--workers', workers]);
      t.after(() => daemon.stop());
      const stand = standOf(folder, join(dirname(daemon.socket), 'control.sock'));
      const hash = async (name: string): Promise<string> => {
        const copy = join(folder, 'copy');
        await mustRun('nbdcopy', ['--no-extents', daemon.uri(name), copy]);
        return createHash('sha256')
          .update(await readFile(copy))
          .digest('hex');
      };
      await fill(daemon.uri('vg/o'), 16);
      await stand.must('lvcreate', '-s', '-L44M', '-ns', 'vg/o');
      const content = await hash('vg/o');
      const writer = new NbdWriter(() => daemon.socket, 'vg/o', 40 * MIB);
      writer.start();
      await waitFor('writes', () => writer.writes > 100);
      await stand.must('lvcreate', '-s', '-L8M', '-c64k', '-nx', 'vg/o');
      const before = writer.writes;
      await waitFor('more writes', () => writer.writes > before + 50);
      await stand.must('lvremove', '-f', 'vg/x');
      await writer.stop();
      assert.equal(await hash('vg/s'), content, 'the snapshot is what the origin was');
      await stand.must('lvcreate', '-s', '-L8M', '-nquiet', 'vg/o');
      assert.equal(await hash('vg/quiet'), await hash('vg/o'));
      await stand.must('lvcreate', '-s', '-l1', '-nsmall', 'vg/o');
      const origin = await stand.run('lvextend', '-L+4M', 'vg/o');
      assert.match(origin.stderr, /can be resized only while inactive: try lvchange -an/);
      await stand.must('lvextend', '-L12M', 'vg/quiet');
      await fill(daemon.uri('vg/o'), 8);
      const others = (await volumes(stand)).filter((line) => !line.startsWith('s '));
      // One line for each segment.
      assert.deepEqual(
        [...new Set(others)],
        [
          'o owi-a-s--- 40.00m  0',
          // A header, 2048 chunks, and nine areas of records for them.
          'quiet swi-a-s--- 12.00m o 4.00k 66.99',
          'small swi-I-s--- 4.00m o 4.00k 100.00',
        ],
      );
      await stand.must('lvremove', '-f', 'vg/o');
      assert.deepEqual(await volumes(stand), []);
    });
  });
}

/** Counts up in the first bytes of two exports, in one after the other; says once that it has begun. */
const COUNTER = `
import nbd, sys
a, b = nbd.NBD(), nbd.NBD()
a.connect_uri(sys.argv[1])
b.connect_uri(sys.argv[2])
n = 0
while True:
    n += 1
    for export in (a, b):
        export.pwrite(n.to_bytes(8, "little") * 64, 0)
    if n == 100:
        print("begun", flush=True)
`;

test('snapshots of several LVs are of one moment', { timeout: 120_000 }, async (t) => {
  await withStand(async ({ folder, image, must: before }) => {
    await before('lvcreate', '-L8M', '-np', 'vg');
    const daemon = await startDaemon([image], ['--workers', '2']);
    t.after(() => daemon.stop());
    const { must, run } = standOf(folder, join(dirname(daemon.socket), 'control.sock'));
    const counter = spawn('/usr/bin/python3', ['-c', COUNTER, daemon.uri('vg/o'), daemon.uri('vg/p')]);
    t.after(() => counter.kill('SIGKILL'));
    await once(counter.stdout, 'data');
    const first = async (name: string): Promise<number> => {
      const script = `print(int.from_bytes(h.pread(8, 0), "little"))`;
      return Number(await mustRun('/usr/bin/python3', ['-m', 'nbd', '-u', daemon.uri(`vg/${name}`), '-c', script]));
    };
    let last = 0;
    for (const at of ['monday', 'tuesday']) {
      assert.equal(
        await must('lvcreate', '-s', '-L4M', '-n', `%s-${at}`, 'vg/o', 'vg/p'),
        `  Logical volume "o-${at}" created.\n  Logical volume "p-${at}" created.\n`,
      );
      const [o, p] = [await first(`o-${at}`), await first(`p-${at}`)];
      assert.ok(o > last && o - p >= 0 && o - p <= 1, `${o} and ${p}, after ${last}`);
      last = o;
    }
    // The VG, o, p, and one commit for each pair of snapshots.
    assert.equal((await must('vgs', '--noheadings', '-o', 'vg_seqno', 'vg')).trim(), '5');
    const refused = await run('lvcreate', '-s', '-L4M', '-n', 'x', 'vg/o', 'vg/p');
    assert.equal(refused.status, 3);
    assert.match(refused.stderr, /need a name with %s in it/);
    const generated = await must('lvcreate', '-s', '-L4M', 'vg/o', '/dev/vg/p', image);
    assert.equal(generated, '  Logical volume "lvol0" created.\n  Logical volume "lvol1" created.\n');
    counter.kill('SIGKILL');
  });
});

test('what LVM2 does not change of an origin is not changed', () =>
  withStand(async (stand) => {
    await stand.must('lvcreate', '-s', '-l2', '-ns', 'vg/o');
    for (const options of ['-Cy', '-r128', '--alloc=cling', '-Mn', '--addtag=a -Cy']) {
      const words = options.split(' ');
      const mine = await stand.run('lvchange', ...words, 'vg/o');
      assert.equal(mine.status, 5, options);
      assert.match(
        mine.stderr,
        /invalid with LV properties: lv_is_thick_origin \.\n {2}Command not permitted on LV vg\/o\.\n$/,
      );
      await withLvm2([stand.image], async (lvm) => {
        const theirs = await lvm.run('lvchange', ...words, 'vg/o');
        const said = theirs.stderr.replace(/^ {2}WARNING: Activation disabled.*\n/, '');
        assert.deepEqual([theirs.status, said], [mine.status, mine.stderr]);
      });
    }
    assert.equal((await stand.run('lvchange', '-My', '--minor', '7', 'vg/o')).status, 0);
    assert.equal((await stand.run('lvchange', '-Cy', 'vg')).status, 0);
    assert.match(
      await stand.must('lvs', '--noheadings', '--separator', ' ', '-olv_name,lv_attr', 'vg'),
      /o owi.* {2}s swc/s,
    );
  }));

test('who was offered TRIM may go on when there is a snapshot', { timeout: 120_000 }, async () => {
  await withStand(async (offline) => {
    const daemon = await startDaemon([offline.image], ['--workers', '0'], { LVM_SYSTEM_DIR: offline.folder });
    const { env } = standOf(offline.folder, join(dirname(daemon.socket), 'control.sock'));
    try {
      const script = `
import subprocess
assert h.can_trim()
h.pwrite(b"old" * 4096, 0)
subprocess.run(["${bin('lvcreate')}", "-s", "-L8M", "-ns", "vg/o"], check=True)
h.trim(8192, 0)
h.trim(h.get_size(), 0, nbd.CMD_FLAG_FUA)
assert h.pread(12288, 0) == b"old" * 4096
again = nbd.NBD()
again.connect_uri("${daemon.uri('vg/o')}")
assert not again.can_trim()
again.shutdown()
snapshot = nbd.NBD()
snapshot.connect_uri("${daemon.uri('vg/s')}")
assert snapshot.pread(12288, 0) == b"old" * 4096
`;
      const PATH = `/usr/bin:${process.env['PATH'] ?? ''}`;
      await mustRun('nbdsh', ['-u', daemon.uri('vg/o'), '-c', script], { cwd: offline.folder, env: { ...env, PATH } });
    } finally {
      await daemon.stop();
    }
  });
});

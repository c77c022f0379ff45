/** Commands that no daemon runs, with an audit log configured: what they wrote is recorded as the daemon does it. */
import assert from 'node:assert/strict';
import { mkdir, readFile, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { readAudit, recordedSeqnos, verifyAudit } from '../../src/observe/audit-verify.ts';
import { AuditLog } from '../../src/observe/audit.ts';
import type { AuditRecord } from '../../src/observe/audit-record.ts';
import { type RunningDaemon, startDaemon, waitFor } from '../helpers/daemon.ts';
import { runProgram } from '../helpers/run.ts';
import { CHECKOUT, withTemporaryFolder } from '../helpers/shared.ts';

interface Place {
  readonly image: string;
  readonly audit: string;
  readonly config: string;
  /** Runs a command that has to end with this code; gives what it said on stderr. */
  readonly run: (code: number, name: string, ...args: readonly string[]) => Promise<string>;
}

async function withPlace(use: (place: Place) => Promise<void>): Promise<void> {
  await withTemporaryFolder(async (folder) => {
    const image = join(folder, 'pv.img');
    await writeFile(image, '');
    await truncate(image, 2 ** 26);
    const audit = join(folder, 'log/audit.log');
    await mkdir(join(folder, 'log'));
    const config = join(folder, 'lvm.toml');
    await writeFile(
      config,
      `devices = [${JSON.stringify(image)}]\nrun_dir = "${folder}"\n[audit]\nfile = "${audit}"\n`,
    );
    const env = { ORION_LVM_CONFIG: config, LVM_SYSTEM_DIR: folder };
    await use({
      image,
      audit,
      config,
      run: async (code, name, ...args) => {
        const { status, stderr } = await runProgram(join(CHECKOUT, 'bin', name), args, { cwd: folder, env });
        assert.equal(status, code, stderr);
        return stderr;
      },
    });
  });
}

test('changes are records, with sequence numbers; reports and tests of changes are none', async () => {
  await withPlace(async ({ image, audit, config, run }) => {
    await run(0, 'pvcreate', image);
    await run(0, 'vgcreate', 'vg0', image);
    // As a daemon has it open that does not hold these devices.
    const daemon = await AuditLog.open({ path: audit });
    await daemon.append({ event: 'start', pid: 1, version: '0', text: 'orion-lvmd started' });
    await run(0, 'lvcreate', '-an', '-Zn', '-l1', '-na', 'vg0');
    await run(0, 'lvs');
    await run(0, 'lvextend', '-t', '-l+1', 'vg0/a');
    await run(5, 'lvextend', '-l+1000', 'vg0/a');
    await daemon.append({ event: 'stop', pid: 1, version: '0', text: 'orion-lvmd stops' });
    await daemon.close();
    const uuid = [...(await recordedSeqnos(audit)).keys()][0] ?? '';
    assert.deepEqual([...(await recordedSeqnos(audit))], [[uuid, 2]]);
    await run(0, 'vgremove', '-y', 'vg0');
    assert.equal((await recordedSeqnos(audit)).size, 0);
    const records = (await readAudit(audit)).map(({ record }) => record);
    const told = records.map((record) => {
      if (record.event !== 'command') return record.event;
      const { argv, from, who, exitCode, groups } = record;
      assert.deepEqual([from, who.uid, exitCode], ['local', process.getuid?.(), 0]);
      return [argv[0], ...groups.flatMap(({ name, seqnoBefore, seqnoAfter }) => [name, seqnoBefore, seqnoAfter])];
    });
    const created = ['lvcreate', 'vg0', 1, 2];
    assert.deepEqual(told.slice(0, 5), [['pvcreate'], ['vgcreate', 'vg0', null, 1], 'start', created, 'stop']);
    assert.deepEqual(told.at(-1), ['vgremove', 'vg0', 2, null]);
    assert.equal(told.length, 6);
    assert.deepEqual((await verifyAudit(audit)).problems, []);
    // What failed before its commit has changed no group.
    await run(0, 'vgcreate', 'vg1', image);
    const noArchive = ['--config', 'backup { archive_dir = "/dev/null/none" }'];
    assert.match(await run(5, 'lvcreate', '-Zn', '-l1', '-na', 'vg1', ...noArchive), /Nothing was changed/);
    const failed = (await readAudit(audit)).at(-1)?.record;
    assert.ok(failed?.event === 'command');
    assert.deepEqual([failed.argv[0], failed.exitCode, failed.groups], ['lvcreate', 5, []]);
    await run(0, 'vgremove', '-y', 'vg1');
    // What can't be recorded is done, and said.
    await writeFile(config, (await readFile(config, 'utf8')).replace(audit, '/no/such/place'));
    assert.match(await run(0, 'vgcreate', 'vg1', image), /WARNING: This command is not recorded: audit log .*ENOENT/);
  });
});

test('a daemon that starts tells what has changed since, and is in no record', async () => {
  await withPlace(async ({ image, audit, config, run }) => {
    await run(0, 'vgcreate', 'vg0', image);
    await run(0, 'lvcreate', '-Zn', '-l1', '-na', 'vg0');
    const daemon = await watching(image, config);
    assert.equal(await daemon.stop(), 0);
    const changes = async (): Promise<readonly AuditRecord[]> =>
      (await readAudit(audit)).map(({ record }) => record).filter(({ event }) => event === 'metadata-changed');
    assert.deepEqual(await changes(), [], 'what is recorded is no news');
    const { status } = await runProgram(join(CHECKOUT, 'bin/vgchange'), ['--addtag', 'x', '--devices', image, 'vg0'], {
      env: { ORION_LVM_CONTROL: '' },
    });
    assert.equal(status, 0);
    const next = await watching(image, config);
    try {
      await waitFor('the record', async () => (await changes()).length > 0);
    } finally {
      assert.equal(await next.stop(), 0);
    }
    const [change] = await changes();
    assert.ok(change?.event === 'metadata-changed');
    assert.deepEqual([change.expected.seqno, change.found.seqno], [2, 3]);
    assert.deepEqual((await verifyAudit(audit)).problems, []);
  });
});

function watching(image: string, config: string): Promise<RunningDaemon> {
  return startDaemon([image], ['--config', config, '--workers', '0']);
}

/** Files beside the control socket, in a directory where somebody else has made links and pipes of their names. */
import assert from 'node:assert/strict';
import { existsSync, readFileSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { DeferredMerges } from '../../src/daemon/deferred-merges.ts';
import { DaemonError } from '../../src/daemon/errors.ts';
import { holdLifeLock } from '../../src/daemon/life-lock.ts';
import { createLog } from '../../src/daemon/log.ts';
import { mustRun } from '../helpers/run.ts';
import { withTemporaryFolder } from '../helpers/shared.ts';

const log = createLog({ level: 'silent', format: 'json' });
const ONE = { origin: 'V o', cow: 'V s' };

test('notes of merges are neither read from a pipe nor written through a link', { timeout: 20_000 }, async () => {
  await withTemporaryFolder(async (folder) => {
    const path = join(folder, 'control.sock.merges');
    const elsewhere = join(folder, 'elsewhere');
    await mustRun('mkfifo', [path]);
    const merges = new DeferredMerges({ path, isServed: () => false, log });
    merges.restore(() => true);
    assert.ok(!merges.waits(ONE.origin));
    symlinkSync(elsewhere, `${path}.new`);
    assert.throws(() => merges.add([ONE]), { code: 'ELOOP' });
    assert.ok(!existsSync(elsewhere));
    assert.ok(!merges.waits(ONE.origin), 'a merge that can not be noted does not wait');
  });
});

test('the life lock is neither made through a link nor waited for as a pipe', { timeout: 20_000 }, async () => {
  await withTemporaryFolder(async (folder) => {
    const control = join(folder, 'control.sock');
    symlinkSync(join(folder, 'elsewhere'), `${control}.lock`);
    await assert.rejects(holdLifeLock(control, log), DaemonError);
    assert.ok(!existsSync(join(folder, 'elsewhere')));
    await mustRun('mkfifo', [join(folder, 'pipe.lock')]);
    await assert.rejects(holdLifeLock(join(folder, 'pipe'), log), DaemonError);
    const lock = await holdLifeLock(join(folder, 'own'), log);
    assert.equal(readFileSync(join(folder, 'own.lock'), 'utf8'), '');
    await lock.close();
  });
});

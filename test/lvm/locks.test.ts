/** The locks of commands: LVM2's files, order and queue, held against flock(1), which is what LVM2 does. */
import assert from 'node:assert/strict';
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { CommandError } from '../../src/lvm/edit/errors.ts';
import { GLOBAL_LOCK, HeldLocks, type LockOptions, vgLock } from '../../src/lvm/locks.ts';
import { withTemporaryFolder } from '../helpers/shared.ts';

function options(directory: string, more: Partial<LockOptions> = {}): LockOptions {
  return { directory, wait: false, prioritiseWriters: true, ...more };
}

/** A shell that runs flock(1) on a file. */
function flockOf(path: string, mode: '-x' | '-s', ...words: readonly string[]): ChildProcessWithoutNullStreams {
  return spawn('sh', ['-c', ['exec', 'flock', mode, ...words].join(' '), path]);
}

/** Another process that has the lock until `release`. */
async function foreignLock(path: string, mode: '-x' | '-s'): Promise<{ release(): Promise<void> }> {
  const child = flockOf(path, mode, '"$0"', 'sh', '-c', "'echo held; read line'");
  await once(child.stdout, 'data');
  return {
    async release() {
      const exited = once(child, 'exit');
      child.stdin.end('\n');
      await exited;
    },
  };
}

async function isFree(path: string, mode: '-x' | '-s'): Promise<boolean> {
  const [code] = (await once(flockOf(path, mode, '-n', '"$0"', 'true'), 'exit')) as [number];
  return code === 0;
}

async function isHeld(path: string): Promise<boolean> {
  return existsSync(path) && !(await isFree(path, '-x'));
}

const refused = (error: unknown): boolean => error instanceof CommandError && /flock failed/.test(error.message);

void describe('locks', () => {
  void test('are files that go with their last user', async () => {
    await withTemporaryFolder(async (folder) => {
      const directory = join(folder, 'made', 'lvm');
      const locks = await HeldLocks.take(
        [vgLock('b', 'read'), vgLock('a', 'write'), { resource: GLOBAL_LOCK, mode: 'write' }],
        options(directory),
      );
      assert.deepEqual((await readdir(directory)).toSorted(), ['P_global', 'V_a', 'V_b']);
      await locks.release();
      assert.deepEqual(await readdir(directory), []);
    });
  });

  void test('a writer keeps everybody out, a reader writers only', async () => {
    await withTemporaryFolder(async (folder) => {
      const writer = await HeldLocks.take([vgLock('vg', 'write')], options(folder));
      assert(!(await isFree(join(folder, 'V_vg'), '-s')));
      await assert.rejects(HeldLocks.take([vgLock('vg', 'read')], options(folder)), refused);
      await writer.release();
      const readers = [
        await HeldLocks.take([vgLock('vg', 'read')], options(folder)),
        await HeldLocks.take([vgLock('vg', 'read')], options(folder)),
      ];
      assert(!(await isFree(join(folder, 'V_vg'), '-x')));
      for (const reader of readers) await reader.release();
      assert(await isFree(join(folder, 'V_vg'), '-x'));
    });
  });

  void test('a waiting writer holds the queue, so that no reader comes before it', async () => {
    await withTemporaryFolder(async (folder) => {
      const path = join(folder, 'V_vg');
      const reader = await foreignLock(path, '-s');
      const writer = HeldLocks.take([vgLock('vg', 'write')], options(folder, { wait: true }));
      while (!(await isHeld(`${path}:aux`))) await nextTurn();
      await assert.rejects(HeldLocks.take([vgLock('vg', 'read')], options(folder)), refused);
      await reader.release();
      const held = await writer;
      assert(!existsSync(`${path}:aux`));
      await held.release();
    });
  });

  void test('a lock that is not got leaves none behind', async () => {
    await withTemporaryFolder(async (folder) => {
      const other = await foreignLock(join(folder, 'V_b'), '-x');
      await assert.rejects(
        HeldLocks.take([vgLock('a', 'write'), vgLock('b', 'write'), vgLock('c', 'write')], options(folder)),
        refused,
      );
      assert(await isFree(join(folder, 'V_a'), '-x'));
      await other.release();
    });
  });

  void test('a refusal says what LVM2 says', async () => {
    await withTemporaryFolder(async (folder) => {
      const other = await HeldLocks.take([vgLock('vg', 'write')], options(folder));
      await assert.rejects(HeldLocks.take([vgLock('vg', 'read')], options(folder, { prioritiseWriters: false })), {
        lines: [
          `${folder}/V_vg: flock failed: Resource temporarily unavailable`,
          "Can't get lock for vg.",
          'Cannot process volume group vg',
        ],
      });
      await other.release();
      const inTheWay = options(join(import.meta.filename, 'x'));
      await assert.rejects(
        HeldLocks.take([vgLock('vg', 'read')], inTheWay),
        /Can't make the directory for locks: Not a directory/,
      );
    });
  });

  void test('an abort ends the wait', async () => {
    await withTemporaryFolder(async (folder) => {
      const other = await foreignLock(join(folder, 'V_vg'), '-x');
      const abort = new AbortController();
      const waiting = HeldLocks.take([vgLock('vg', 'write')], options(folder, { wait: true, signal: abort.signal }));
      abort.abort();
      await assert.rejects(waiting, { name: 'CommandError', message: /^Giving up waiting for lock/ });
      await other.release();
      assert(await isFree(join(folder, 'V_vg'), '-x'));
    });
  });

  void test('more are taken later in the same order only', async () => {
    await withTemporaryFolder(async (folder) => {
      const locks = await HeldLocks.take([{ resource: GLOBAL_LOCK, mode: 'read' }], options(folder));
      await locks.add(vgLock('m', 'write'), options(folder));
      await locks.add(vgLock('z', 'write'), options(folder));
      await assert.rejects(locks.add(vgLock('a', 'write'), options(folder)), /lock V_a after V_z/);
      await locks.release();
      assert.deepEqual(await readdir(folder), []);
    });
  });

  void test('many takers of one lock never hold it together', async () => {
    await withTemporaryFolder(async (folder) => {
      let inside = 0;
      await Promise.all(
        Array.from({ length: 12 }, async () => {
          const locks = await HeldLocks.take([vgLock('vg', 'write')], options(folder, { wait: true }));
          assert.equal(++inside, 1);
          await nextTurn();
          inside--;
          await locks.release();
        }),
      );
      assert.deepEqual(await readdir(folder), []);
    });
  });
});

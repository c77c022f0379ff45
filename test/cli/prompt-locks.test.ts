/** While pvcreate waits for an answer nobody else has to: P_global is let go, and what the answer was about is looked at again. */
import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { run } from '../../src/cli/run.ts';
import { CHECKOUT, withTemporaryFolder } from '../helpers/shared.ts';

interface Asked {
  readonly code: number;
  readonly text: string;
  readonly questions: number;
}

/** Runs a command that asks; `meanwhile` is what others do before the answer, which is yes. */
async function asked(
  folder: string,
  argv: readonly string[],
  meanwhile: (env: NodeJS.ProcessEnv) => void,
): Promise<Asked> {
  const uid = process.geteuid?.() ?? 0;
  const locking = `global/locking_dir="${join(folder, 'lock')}"`;
  const env = { ...process.env, ORION_LVM_DEVICES: join(folder, 'pv'), HOME: folder, LVM_SYSTEM_DIR: folder };
  let text = '';
  let questions = 0;
  const add = (line: string): void => void (text += `${line}\n`);
  const terminal = {
    write: (): void => void questions++,
    readLine: (): string => {
      meanwhile(env);
      return 'y';
    },
  };
  const output = { print: add, error: add, plainError: add, printPlain: add };
  const around = { env, cwd: folder, uid, now: 1000, terminal };
  const code = await run([...argv, '--config', `${locking} backup{backup=0 archive=0}`], output, around);
  return { code, text, questions };
}

async function withImage(use: (folder: string) => Promise<void>): Promise<void> {
  await withTemporaryFolder(async (folder) => {
    const file = await open(join(folder, 'pv'), 'w');
    await file.truncate(32 << 20);
    await file.close();
    await asked(folder, ['pvcreate', join(folder, 'pv')], () => assert.fail('nothing is asked'));
    await use(folder);
  });
}

const FAKE_SIZE = ['pvcreate', '--setphysicalvolumesize', '64m'];

void test('P_global is free while pvcreate asks, and taken again for the work', () =>
  withImage(async (folder) => {
    const { code, text, questions } = await asked(folder, [...FAKE_SIZE, join(folder, 'pv')], () => {
      execFileSync('flock', ['-n', join(folder, 'lock/P_global'), 'true']);
    });
    assert.deepEqual([code, questions], [0, 1], text);
    assert.match(text, /successfully created/);
  }));

void test('a PV that joins a VG meanwhile is not used', () =>
  withImage(async (folder) => {
    const config = `global/locking_dir="${join(folder, 'lock')}" backup{backup=0 archive=0}`;
    const { code, text } = await asked(folder, [...FAKE_SIZE, join(folder, 'pv')], (env) => {
      const lvm = join(CHECKOUT, 'bin/orion-lvm');
      execFileSync(lvm, ['vgcreate', '--config', config, 'vg', join(folder, 'pv')], { env });
    });
    assert.equal(code, 5);
    assert.match(text, /^Cannot use device .*\/pv: it was changed while the question was waiting for its answer\.$/m);
  }));

void test('who takes P_global meanwhile and keeps it is not waited for', () =>
  withImage(async (folder) => {
    const holders: ChildProcess[] = [];
    const { code, text } = await asked(folder, [...FAKE_SIZE, join(folder, 'pv')], () => {
      const lock = join(folder, 'lock/P_global');
      holders.push(spawn('flock', ['-o', lock, 'sleep', '60'], { detached: true, stdio: 'ignore' }));
      // Until it has the lock.
      execFileSync('sh', ['-c', `while flock -n '${lock}' true; do :; done`]);
    });
    for (const { pid } of holders) if (pid !== undefined) process.kill(-pid);
    assert.equal(code, 5);
    assert.match(text, /Failed to reacquire global lock after prompt\./);
  }));

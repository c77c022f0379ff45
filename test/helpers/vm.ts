/** Runs a script as root under a real Linux kernel in a virtual machine (../shared/vm/vm-run); needs no root here and no KVM. */
import { spawn } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { startDaemon } from './daemon.ts';
import { mustRun } from './run.ts';
import { CHECKOUT, SHARED } from './shared.ts';

export interface VmResult {
  readonly status: number | null;
  readonly output: string;
}

/** Words of a shell command. */
function quoted(word: string): string {
  return `'${word.replaceAll("'", `'\\''`)}'`;
}

/**
 * The script that starts the real one in the checkout. The machine has a /tmp of its own over this machine's, which may hide
 * the checkout: it is taken away.
 */
function starter(script: string): string {
  return `umount /tmp; ln -sfn /proc/self/fd /dev/fd; cd ${quoted(CHECKOUT)} && exec bash ${quoted(script)} "$@"\n`;
}

/**
 * Has the code compiled here, where that is kept: the machine would have to do it at each start of a process, and an emulated
 * processor takes minutes (and V8 has died there in the WebAssembly that takes types away).
 */
async function compile(folder: string): Promise<void> {
  const nothing = join(folder, 'nothing');
  await writeFile(nothing, Buffer.alloc(65_536));
  const daemon = await startDaemon([nothing], ['--workers', '1']);
  const ours = join(CHECKOUT, 'bin/orion-lvm');
  // It loads every command; the other is run by the daemon, in a process that loads more.
  await mustRun(ours, ['completion', 'bash']);
  await mustRun(ours, ['vgck', '--devices', nothing], {
    env: { ORION_LVM_CONTROL: join(dirname(daemon.socket), 'control.sock') },
  });
  await daemon.stop();
  await rm(nothing);
}

/** Runs `script` with `args`; `disks` appear as /dev/vda, /dev/vdb, … and keep what is written to them. */
export async function runInVm(
  script: string,
  options: { readonly args?: readonly string[]; readonly disks?: readonly string[]; readonly timeoutSeconds?: number },
): Promise<VmResult> {
  const out = await mkdtemp(join(tmpdir(), 'orion-lvm-vm-'));
  const start = join(out, 'start.sh');
  await writeFile(start, starter(script));
  const args = [
    '--out',
    out,
    '--timeout',
    String(options.timeoutSeconds ?? 300),
    ...(options.disks ?? []).flatMap((disk) => ['--disk', disk]),
    start,
    ...(options.args ?? []),
  ];
  try {
    await compile(out);
    return await new Promise((resolve, reject) => {
      const child = spawn(join(SHARED, 'vm/vm-run'), args, { cwd: CHECKOUT, stdio: ['ignore', 'pipe', 'pipe'] });
      let output = '';
      child.stdout.on('data', (chunk: Buffer) => (output += chunk.toString()));
      child.stderr.on('data', (chunk: Buffer) => (output += chunk.toString()));
      child.on('error', reject);
      child.on('close', (status) => {
        resolve({ status, output });
      });
    });
  } finally {
    await rm(out, { recursive: true, force: true });
  }
}

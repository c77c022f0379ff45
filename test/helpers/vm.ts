/** Runs a script as root under a real Linux kernel in a virtual machine (../shared/vm/vm-run); needs no root here and no KVM. */
import { spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CHECKOUT, SHARED } from './shared.ts';

export interface VmResult {
  readonly status: number | null;
  readonly output: string;
}

/** Runs `script` with `args`; `disks` appear as /dev/vda, /dev/vdb, … and keep what is written to them. */
export async function runInVm(
  script: string,
  options: { readonly args?: readonly string[]; readonly disks?: readonly string[]; readonly timeoutSeconds?: number },
): Promise<VmResult> {
  const out = await mkdtemp(join(tmpdir(), 'orion-lvm-vm-'));
  const args = [
    '--out',
    out,
    '--timeout',
    String(options.timeoutSeconds ?? 300),
    ...(options.disks ?? []).flatMap((disk) => ['--disk', disk]),
    script,
    ...(options.args ?? []),
  ];
  try {
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

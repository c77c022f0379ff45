/** Where io_uring is forbidden, as container runtimes do it: io_uring_setup fails by a seccomp filter, and threads do the work. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { temporaryFile } from './harness.ts';

const run = promisify(execFile);
const SOURCES = fileURLToPath(new URL('../../src/', import.meta.url));

/** Installs a filter that answers io_uring_setup (425 everywhere) with EPERM, then becomes the program in its arguments. */
const FORBID = `
import ctypes, os, struct, sys
LD, JEQ, RET = 0x20, 0x15, 0x06
code = [(LD, 0, 0, 0), (JEQ, 0, 1, 425), (RET, 0, 0, 0x00050001), (RET, 0, 0, 0x7fff0000)]
filters = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *line) for line in code))
class Program(ctypes.Structure):
    _fields_ = [('length', ctypes.c_ushort), ('filters', ctypes.c_void_p)]
program = Program(len(code), ctypes.addressof(filters))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(program)) == 0
os.execv(sys.argv[1], sys.argv[1:])
`;

function forbidden(...words: readonly string[]): Promise<{ readonly stdout: string; readonly stderr: string }> {
  return run('python3', ['-c', FORBID, process.execPath, ...words]);
}

describe('without io_uring', () => {
  test('devices are served by threads, and the ring that was asked for by name is an error', async () => {
    const file = await temporaryFile(2 ** 20);
    const source = `const { engineOf, openBlockDevice } = await import(${JSON.stringify(`${SOURCES}block/open.ts`)});
      const { readBytes, writeBytes } = await import(${JSON.stringify(`${SOURCES}block/sync-io.ts`)});
      const device = await openBlockDevice(process.argv[1], { engine: 'auto', direct: 'auto' });
      await writeBytes(device, 1000, Buffer.from('by threads'), { fua: true });
      const back = await readBytes(device, 1000, 10);
      await device.close();
      const error = await openBlockDevice(process.argv[1], { engine: 'uring' }).catch((error) => error.message);
      process.stdout.write([engineOf('auto'), back, error].join('|'));`;
    const { stdout } = await forbidden('--input-type=module', '-e', source, file.path);
    const said = `${file.path}: cannot be served by io_uring: EPERM (operation not permitted)`;
    assert.equal(stdout, `threads|by threads|${said}`);
    await file.dispose();
  });

  test('the daemon refuses --engine uring by name, and takes auto', async () => {
    const file = await temporaryFile(2 ** 20);
    const check = [`${SOURCES}daemon/main.ts`, '--check-config', '--devices', file.path, '--engine'];
    const refusal = await forbidden(...check, 'uring').catch((error: unknown) => error);
    assert(refusal instanceof Error && 'stderr' in refusal && 'code' in refusal);
    assert.equal(refusal.code, 3);
    assert.match(String(refusal.stderr), /--engine: "uring" is not possible here: io_uring: EPERM/);
    assert.match((await forbidden(...check, 'auto')).stdout, /ok/);
    await file.dispose();
  });
});

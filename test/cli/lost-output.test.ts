/** What a command ends with when its output goes nowhere: to a full disk, or to a reader that has gone. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { runProgram } from '../helpers/run.ts';
import { CHECKOUT } from '../helpers/shared.ts';

const COMMAND = join(CHECKOUT, 'bin/orion-lvm');

/** Runs a line of a shell in which $1 is orion-lvm. */
function shell(line: string): ReturnType<typeof runProgram> {
  return runProgram('sh', ['-c', line, 'sh', COMMAND]);
}

test('output that a full disk does not take is told, and no success', async () => {
  const full = await shell('"$1" formats >/dev/full');
  assert.deepEqual(full, {
    status: 5,
    stdout: '',
    stderr: "  The output can't be written: no space left on device.\n",
  });
});

test('messages that a full disk does not take leave the exit code, unless it is success', async () => {
  assert.equal((await shell('"$1" nosuch 2>/dev/full')).status, 2);
  assert.equal((await shell('"$1" formats >/dev/full 2>/dev/full')).status, 5);
});

test('a reader that has gone ends a command in silence, and not with success', async () => {
  // The command begins when the reader's end is closed: the second shell says so by ending the line that the first one reads.
  const line = `d=$(mktemp -d); mkfifo "$d/gone"
    { read -r _ <"$d/gone"; "$1" formats; echo $? >&2; } | { exec <&-; echo >"$d/gone"; }
    rm -r "$d"`;
  assert.deepEqual(await shell(line), { status: 0, stdout: '', stderr: '141\n' });
});

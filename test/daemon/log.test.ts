/** The log: a reader that reads late, too late, or never; and the readable form. */
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { readable } from '../../src/daemon/log.ts';
import { withTemporaryFolder } from '../helpers/shared.ts';

const LOG = new URL('../../src/daemon/log.ts', import.meta.url).href;

/** Arguments of a process that logs numbered records of about 1 KiB, says so on stdout, and then does `end`. */
function logging(lines: number, end = ''): string[] {
  const script = `
    const { createLog } = await import('${LOG}');
    const log = createLog({ level: 'info', format: 'json' });
    for (let i = 0; i < ${lines}; i++) log.info({ i, fill: 'x'.repeat(1000) }, 'line');
    process.stdout.write('logged');
    ${end}`;
  return ['--input-type=module', '-e', script];
}

/**
 * What comes out of a stderr that nobody reads before everything was logged: a socket, as Node makes them for its children. The
 * process's stdin ends when `last` has come.
 */
async function throughSocket(args: readonly string[], last: string): Promise<string> {
  const child = spawn(process.execPath, args, { stdio: ['pipe', 'pipe', 'pipe'] });
  await once(child.stdout, 'data');
  let text = '';
  child.stderr.on('data', (chunk: Buffer) => {
    text += chunk.toString();
    if (text.includes(last)) child.stdin.end();
  });
  assert.deepEqual(await once(child, 'close'), [0, null]);
  return text;
}

/** The same for a pipe, as shells make them. */
async function throughPipe(args: readonly string[], last: string): Promise<string> {
  return withTemporaryFolder(async (folder) => {
    const path = join(folder, 'pipe');
    execFileSync('mkfifo', [path]);
    const fd = openSync(path, 'r+');
    const child = spawn(process.execPath, args, { stdio: ['pipe', 'pipe', fd] });
    assert(child.stdin !== null && child.stdout !== null);
    const { stdin } = child;
    await once(child.stdout, 'data');
    const reader = spawn('cat', [path], { stdio: ['ignore', 'pipe', 'inherit'] });
    let text = '';
    reader.stdout.on('data', (chunk: Buffer) => {
      text += chunk.toString();
      if (text.includes(last)) stdin.end();
    });
    assert.deepEqual(await once(child, 'close'), [0, null]);
    closeSync(fd);
    await once(reader, 'close');
    return text;
  });
}

function numbers(text: string): number[] {
  const lines = text.trimEnd().split('\n');
  return lines.flatMap((line) => (JSON.parse(line) as { readonly i?: number }).i ?? []);
}

function upTo(count: number): number[] {
  return Array.from({ length: count }, (_, i) => i);
}

for (const [kind, through] of Object.entries({ throughSocket, throughPipe })) {
  describe(kind, () => {
    test('a reader that comes late stops nobody, and gets every line in order', async () => {
      assert.deepEqual(numbers(await through(logging(500, 'process.stdin.resume();'), '"i":499')), upTo(500));
    });

    test('what is too much is lost as whole lines, and told', async () => {
      const end = `const later = setInterval(() => log.info({ i: -1 }, 'later'), 50);
        process.stdin.once('end', () => clearInterval(later)).resume();`;
      const text = await through(logging(5000, end), 'lines of the log were lost');
      const found = numbers(text);
      const before = found.filter((i) => i >= 0);
      assert.deepEqual(before, upTo(before.length));
      assert.ok(before.length > 500 && before.length < 5000, `${before.length}`);
      assert.ok(text.includes(`${5000 - before.length} lines of the log were lost`));
      assert.ok(found.includes(-1));
    });
  });
}

test('a reader that went away is no error', async () => {
  const args = logging(100, "process.stdin.on('data', () => { log.info('after'); process.stdin.destroy(); });");
  const child = spawn(process.execPath, args, { stdio: ['pipe', 'pipe', 'pipe'] });
  child.stderr.destroy();
  await once(child.stdout, 'data');
  child.stdin.write('go on');
  assert.deepEqual(await once(child, 'close'), [0, null]);
});

test('in a file is everything, also before an exit', async () => {
  await withTemporaryFolder(async (folder) => {
    const path = join(folder, 'log');
    const fd = openSync(path, 'a');
    const child = spawn(process.execPath, logging(300, 'process.exit(0);'), { stdio: ['ignore', 'ignore', fd] });
    await once(child, 'exit');
    closeSync(fd);
    assert.deepEqual(numbers(readFileSync(path, 'utf8')), upTo(300));
  });
});

test('the readable form', () => {
  const line = '{"level":"warn","time":"2026-01-02T03:04:05.678Z","lv":"vg/a","n":2,"msg":"words"}';
  assert.equal(readable(line, false), '03:04:05 warn: words (lv=vg/a n=2)');
});

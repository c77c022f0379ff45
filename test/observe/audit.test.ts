/** The audit log: what was appended is found again, and everything done to it afterwards is found out. */
import assert from 'node:assert/strict';
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, test } from 'node:test';
import fc from 'fast-check';
import { AuditError, AuditLog } from '../../src/observe/audit.ts';
import type { AuditEvent } from '../../src/observe/audit-record.ts';
import { readAudit, verifyAudit, type VerifyOptions } from '../../src/observe/audit-verify.ts';

let folder = '';
let path = '';
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'orion-lvm-audit-'));
  path = join(folder, 'audit.log');
});
afterEach(() => {
  rmSync(folder, { recursive: true, force: true });
});

function command(n: number): AuditEvent {
  const groups = [{ name: 'vg0', uuid: 'u', seqnoBefore: n, seqnoAfter: n + 1 }];
  const argv = ['lvcreate', '-n', `lv "${n}"`, 'ü\n'];
  return { event: 'command', who: { uid: 0, gid: 0, pid: 7 }, from: 'local', argv, exitCode: 0, groups };
}

async function write(count: number, maxBytes?: number): Promise<void> {
  const log = await AuditLog.open({ path, ...(maxBytes === undefined ? {} : { maxBytes }) });
  await Promise.all(Array.from({ length: count }, (_, i) => log.append(command(i))));
  await log.close();
}

async function problems(options?: VerifyOptions): Promise<string[]> {
  const verdict = await verifyAudit(path, options);
  return verdict.problems.map(({ kind, line, text }) => `${kind} ${line}: ${text}`);
}

function lines(): string[] {
  return readFileSync(path, 'utf8').split('\n').slice(0, -1);
}

function rewrite(changed: readonly string[]): void {
  writeFileSync(path, changed.map((line) => `${line}\n`).join(''));
}

describe('audit log', () => {
  test('appends in the order of the calls, and goes on after a restart', async () => {
    await write(3);
    await write(2);
    const records = (await readAudit(path)).map(({ record }) => record);
    assert.deepEqual(
      records.map(({ seq }) => seq),
      [1, 2, 3, 4, 5],
    );
    assert.deepEqual(
      records.map((record) => (record.event === 'command' ? record.groups[0]?.seqnoBefore : -1)),
      [0, 1, 2, 0, 1],
    );
    assert.deepEqual(await problems(), []);
    assert.equal(statSync(path).mode & 0o777, 0o600);
  });

  test('a record is in the file when its append has settled', async () => {
    const log = await AuditLog.open({ path });
    const record = await log.append(command(1));
    assert.deepEqual(JSON.parse(lines()[0] ?? ''), record);
    assert.equal(readFileSync(`${path}.head`, 'latin1'), `0000000000000001 ${log.last.hash}\n`);
    await log.close();
    await assert.rejects(log.append(command(2)), new AuditError('CLOSED', path, 'it was closed'));
  });

  test('any change of a byte, any line removed, doubled or moved is found', async () => {
    await write(6);
    const before = lines();
    const length = before.join('\n').length + 1;
    const damage = fc.oneof(
      fc.record({ kind: fc.constant('byte' as const), at: fc.nat(length - 2) }),
      fc.record({ kind: fc.constant('remove' as const), from: fc.nat(5), count: fc.integer({ min: 1, max: 6 }) }),
      fc.record({ kind: fc.constant('double' as const), line: fc.nat(5) }),
      fc.record({ kind: fc.constant('swap' as const), a: fc.nat(5), b: fc.nat(5) }).filter(({ a, b }) => a !== b),
      fc.record({ kind: fc.constant('cut' as const), bytes: fc.integer({ min: 1, max: length - 1 }) }),
    );
    await fc.assert(
      fc.asyncProperty(damage, async (change) => {
        const copy = [...before];
        const bytes = Buffer.from(before.map((line) => `${line}\n`).join(''));
        if (change.kind === 'byte') bytes[change.at]! ^= 0x01;
        if (change.kind === 'remove') copy.splice(change.from, change.count);
        if (change.kind === 'double') copy.splice(change.line, 0, copy[change.line]!);
        if (change.kind === 'swap') [copy[change.a], copy[change.b]] = [copy[change.b]!, copy[change.a]!];
        if (change.kind === 'byte') writeFileSync(path, bytes);
        else if (change.kind === 'cut') writeFileSync(path, bytes.subarray(0, -change.bytes));
        else rewrite(copy);
        assert.notDeepEqual(await problems(), []);
      }),
      { numRuns: 150 },
    );
    rewrite(before);
    assert.deepEqual(await problems(), []);
  });

  test('says which records', async () => {
    await write(5);
    const [a, b, c, d, e] = lines() as [string, string, string, string, string];
    const cases: readonly (readonly [readonly string[], RegExp])[] = [
      [[a, b.replace('"uid":0', '"uid":1'), c, d, e], /^changed 3: record 2 was changed: record 3 was written after/],
      [[a, b, d, e], /^missing 3: record 3 is missing before record 4$/],
      [[a, e], /^missing 2: records 2 to 4 are missing before record 5$/],
      [[a, c, b, d, e], /^missing 2: .*order 3: record 2 stands after record 3/s],
      [[b, c, d, e], /^missing 1: record 1 is missing before record 2$/],
      [[a, b, c], /^missing 0: records 4 to 5 are missing at the end: audit.log.head has the number 5$/],
      [[a, b, c, d, e.replace('"uid":0', '"uid":1')], /^changed 0: record 5 was changed: its hash is/],
      [[a, b, '', c, d, e], /^damaged 3: this line is no record$/],
      [[], /^missing 0: records 1 to 5 are missing at the end/],
    ];
    for (const [changed, expected] of cases) {
      rewrite(changed);
      assert.match((await problems()).join('\n'), expected);
    }
    rewrite([a, b, c, d, e]);
    rmSync(`${path}.head`);
    assert.match((await problems()).join('\n'), /^head 0: the file is missing/);
  });

  test('log and head shortened together are found by what was noted elsewhere', async () => {
    const log = await AuditLog.open({ path });
    for (let i = 0; i < 4; i++) await log.append(command(i));
    const noted = log.last;
    await log.close();
    const [a, b] = lines();
    rewrite([a ?? '', b ?? '']);
    const shorter = await verifyAudit(path);
    writeFileSync(`${path}.head`, `0000000000000002 ${shorter.last?.hash}\n`);
    assert.deepEqual(await problems(), []);
    assert.match((await problems({ expected: noted })).join(), /records 3 to 4 are missing at the end: what was noted/);
  });

  test('what was removed while the daemon was away stays visible after it goes on', async () => {
    await write(4);
    const [a, b, c, d] = lines();
    rewrite([a ?? '', b ?? '']);
    await write(1);
    assert.deepEqual(await problems(), ['missing 3: records 3 to 4 are missing before record 5']);
    rewrite([a ?? '', b ?? '', c ?? '', (d ?? '').replace('"uid":0', '"uid":1')]);
    writeFileSync(`${path}.head`, `0000000000000004 ${'a'.repeat(64)}\n`);
    await write(1);
    assert.match((await problems()).join('\n'), /^changed 5: record 4 was changed/);
  });

  for (const [name, tail] of [
    ['half a line', '{"seq":3,"time":"2026-'],
    ['half a line and a newline', '{"seq":3,"time":"2026-\n'],
  ] as const) {
    test(`a crash left ${name}: kept, told by a record, and no problem`, async () => {
      await write(2);
      appendFileSync(path, tail);
      if (!tail.endsWith('\n')) assert.match((await problems()).join(), /damaged 3: the last line is no whole record/);
      await write(1);
      const records = (await readAudit(path)).map(({ record }) => record.event);
      assert.deepEqual(records, ['command', 'command', 'truncated', 'command']);
      const verdict = await verifyAudit(path);
      assert.deepEqual(verdict.problems, []);
      assert.match(verdict.notes.join(), /audit.log:3: a record that a crash cut short \(record 3 tells\)/);
      // The fragment is part of the chain: it can't be changed or taken away either.
      const changed = lines();
      rewrite([...changed.slice(0, 2), '{"seq":3,"time":"2027-', ...changed.slice(3)]);
      assert.notDeepEqual(await problems(), []);
      rewrite([...changed.slice(0, 2), ...changed.slice(3)]);
      assert.notDeepEqual(await problems(), []);
    });
  }

  test('full files are renamed, and verified together', async () => {
    await write(20, 2000);
    const rotated = readdirSync(folder).filter((name) => /audit\.log\.\d+$/.test(name));
    assert.ok(rotated.length >= 3, String(rotated));
    const verdict = await verifyAudit(path);
    assert.deepEqual(verdict.problems, []);
    assert.equal(verdict.files.length, rotated.length + 1);
    await write(1, 2000);
    assert.deepEqual(await problems(), []);
    const first = verdict.files[0] ?? '';
    const [, firstLast = ''] = /\.(\d+)$/.exec(first) ?? [];
    rmSync(first);
    assert.match((await problems()).join(), new RegExp(`^missing 1: records 1 to ${firstLast} are missing before`));
    assert.deepEqual(await problems({ from: Number(firstLast) + 1 }), []);
  });

  test('a crash between renaming a full file and beginning the next', async () => {
    await write(3);
    const text = readFileSync(path);
    rmSync(path);
    writeFileSync(`${path}.3`, text);
    await write(1);
    assert.deepEqual(
      (await readAudit(path)).map(({ record }) => record.seq),
      [1, 2, 3, 4],
    );
    assert.deepEqual(await problems(), []);
  });

  test('a log that vanished is begun anew with a gap', async () => {
    await write(3);
    rmSync(path);
    await write(1);
    assert.deepEqual(await problems(), ['missing 1: records 1 to 3 are missing before record 4']);
  });

  test('a log that can not be written for a while: the append says so, later ones go on, and the gap shows', async () => {
    const log = await AuditLog.open({ path, maxBytes: 1 });
    await log.append(command(1));
    rmSync(folder, { recursive: true });
    await assert.rejects(log.append(command(2)), { name: 'AuditError', code: 'CANNOT_WRITE' });
    await assert.rejects(log.append(command(3)), { name: 'AuditError', code: 'CANNOT_OPEN' });
    mkdirSync(folder);
    const record = await log.append(command(4));
    await log.close();
    assert.equal(record.seq, 2);
    assert.deepEqual(await problems(), ['missing 1: record 1 is missing before record 2']);
  });

  test('a place where nothing can be written is an error that names it', async () => {
    await assert.rejects(AuditLog.open({ path: join(folder, 'no/such/audit.log') }), {
      name: 'AuditError',
      code: 'CANNOT_OPEN',
      message: /audit log .*no\/such\/audit.log: ENOENT/,
    });
    assert.equal(existsSync(join(folder, 'no')), false);
  });
});

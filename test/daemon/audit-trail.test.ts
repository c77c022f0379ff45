/** What a record keeps of a command line. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { shortened } from '../../src/observe/audit-record.ts';

test('a command line is kept as it is, but no caller fills the disk with one', () => {
  const line = ['lvcreate', '-n', 'x', '-L', '1G', 'vg0'];
  assert.deepEqual(shortened(line), line);
  const [name, long] = shortened(['lvs', 'x'.repeat(2 ** 22), 'y']);
  assert.equal(name, 'lvs');
  assert.match(long ?? '', /^x+… \(2 words, 4194305 characters\)$/);
  assert.ok((long ?? '').length < 17_000);
  const many = shortened(Array.from({ length: 10 ** 6 }, () => ''));
  assert.equal(many.at(-1), '… (998976 words, 0 characters)');
  assert.equal(many.length, 1025);
});

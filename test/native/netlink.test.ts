/** Messages to the kernel: their bytes, what answers are made out to be, and that bad ones end in an error. */
import assert from 'node:assert/strict';
import { constants } from 'node:os';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { attribute, attributesOf, hearDeadLinks, message, messagesOf, NetlinkError } from '../../src/native/netlink.ts';

/** An error as the kernel sends it, about a message of which it repeats the header. */
function errorMessage(errno: number, flags: number, behind: readonly Buffer[]): Buffer {
  const bytes = Buffer.concat([Buffer.alloc(36), ...behind]);
  bytes.writeUInt32LE(bytes.length, 0);
  bytes.writeUInt16LE(2, 4);
  bytes.writeUInt16LE(flags, 6);
  bytes.writeInt32LE(-errno, 16);
  bytes.writeUInt32LE(20, 20);
  return bytes;
}

describe('netlink', () => {
  test('a request as the kernel reads it', () => {
    const bytes = message(0x1c, 2, [attribute(1, Buffer.from([5, 0, 0, 0])), attribute(10, Buffer.from('ab\0'))]);
    assert.equal(bytes.toString('hex'), '240000001c000500010000000000000002010000080001000500000007000a0061620000');
  });

  test('attributes come back as they were written', () => {
    const pieces = fc.array(fc.tuple(fc.integer({ min: 0, max: 0x3fff }), fc.uint8Array({ maxLength: 40 })));
    fc.assert(
      fc.property(pieces, (values) => {
        const bytes = Buffer.concat(values.map(([type, payload]) => attribute(type, Buffer.from(payload))));
        const read = attributesOf(bytes).map(({ type, payload }) => [type, Uint8Array.from(payload)]);
        assert.deepEqual(read, values);
      }),
    );
  });

  test('any bytes are read, or refused with an error of ours', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        try {
          messagesOf(Buffer.from(bytes));
        } catch (error) {
          assert.ok(error instanceof NetlinkError, String(error));
        }
      }),
    );
  });

  test('an acknowledgement is no message, an error has its number and words', () => {
    const answer = Buffer.concat([
      message(0x1c, 1, [attribute(1, Buffer.alloc(4))]),
      errorMessage(0, 0, [Buffer.alloc(4)]),
    ]);
    assert.deepEqual(
      messagesOf(answer).map(({ command }) => command),
      [1],
    );
    const words = attribute(1, Buffer.from('device is busy\0'));
    assert.throws(() => messagesOf(errorMessage(16, 0x200, [Buffer.alloc(4), words])), {
      errno: 16,
      message: 'resource busy or locked (device is busy)',
    });
    assert.throws(() => messagesOf(errorMessage(16, 0x300, [words])), { message: /\(device is busy\)/ });
    assert.throws(() => messagesOf(errorMessage(1, 0, [])), { errno: 1, message: 'operation not permitted' });
  });

  test('the kernel answers: it has nbd, or says that it has not', async () => {
    try {
      const links = await hearDeadLinks();
      assert.deepEqual(links.take(), new Set());
      links.close();
    } catch (error) {
      assert.ok(error instanceof NetlinkError && error.errno === constants.errno.ENOENT, String(error));
    }
  });
});

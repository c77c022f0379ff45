/** Peers of the control socket that reach for what is not theirs, and names as a client may have to write them. */
import assert from 'node:assert/strict';
import { IncomingMessage, ServerResponse } from 'node:http';
import { Socket } from 'node:net';
import { describe, test } from 'node:test';
import { CommandResource } from '../../src/daemon/control/commands.ts';
import { type Call, routeOf } from '../../src/daemon/control/routes.ts';

/** Of a peer by this user id; what it would be answered goes nowhere. */
function callOf(uid: number, role: Call['role']): Call {
  const request = new IncomingMessage(new Socket());
  const response = new ServerResponse(request);
  return { request, response, peer: { uid, gid: uid, pid: 1, groups: [] }, role, params: {} };
}

describe("another user's command", () => {
  test('is neither cancelled nor answered, which is a refusal like any other', () => {
    const told: string[] = [];
    const refused: string[] = [];
    const commands = new CommandResource({
      runner: {
        start(_request, listener) {
          listener({ type: 'started', id: '7' });
          return { id: '7', answer: () => void told.push('answer'), cancel: () => void told.push('cancel') };
        },
      },
      known: () => ({ identities: new Set(), paths: new Set() }),
      settings: () => ({ devices: [], configFile: null, controlPath: '/control.sock' }),
      refused: ({ uid }, what, reason) => void refused.push(`${uid} ${what.join(' ')}: ${reason}`),
      begun: () => undefined,
    });
    const begun = { name: 'lvrename', argv: ['vg/a', 'b'], cwd: '/', env: {}, devices: null, configFile: null };
    commands.run(callOf(1001, 'operator'), { ...begun, terminal: { isTTY: false, columns: 80 }, configDevices: [] });
    const other = callOf(1002, 'operator');
    assert.throws(() => commands.cancel(other, '7'), { status: 403 });
    assert.throws(() => commands.answer(other, '7', { id: 1, line: 'y' }), { status: 403 });
    const reason = "command 7 is another user's";
    assert.deepEqual(refused, [`1002 cancel lvrename vg/a b: ${reason}`, `1002 answer lvrename vg/a b: ${reason}`]);
    assert.deepEqual(told, []);
    commands.answer(callOf(1001, 'operator'), '7', { id: 1, line: 'y' });
    commands.cancel(callOf(1003, 'administrator'), '7');
    assert.deepEqual(told, ['answer', 'cancel']);
  });
});

describe('names in paths', () => {
  test('with characters that a client encodes', () => {
    const { params } = routeOf('GET', `/v1/segments/${encodeURIComponent('vg+1')}/${encodeURIComponent('a+b')}`);
    assert.deepEqual(params, { vg: 'vg+1', lv: 'a+b' });
    assert.deepEqual(routeOf('POST', '/v1/holds/vg+1/a.b_c-d').params, { vg: 'vg+1', lv: 'a.b_c-d' });
  });

  test('that can be none are not there', () => {
    for (const name of ['%', '%zz', '%ff', '']) {
      assert.throws(() => routeOf('GET', `/v1/segments/${name}/a`), { status: 404, code: 'NO_SUCH_RESOURCE' });
    }
  });
});

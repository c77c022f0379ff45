/** Where commands look for a daemon. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type SocketSurroundings, socketPlaces } from '../../src/daemon/client/socket-path.ts';

const USER: SocketSurroundings = { env: {}, cwd: '/home/user', uid: 1000, config: null };

function places(around: Partial<SocketSurroundings>): readonly string[] {
  return socketPlaces({ ...USER, ...around });
}

test("what is said, else the user's own run-time directory, then root's", () => {
  const system = '/run/orion-lvm/control.sock';
  assert.deepEqual(places({}), [system]);
  assert.deepEqual(places({ uid: 0 }), [system]);
  assert.deepEqual(places({ env: { XDG_RUNTIME_DIR: '/run/user/1000' } }), [
    '/run/user/1000/orion-lvm/control.sock',
    system,
  ]);
  assert.deepEqual(places({ env: { ORION_LVM_CONTROL: 'a.sock' } }), ['/home/user/a.sock']);
  assert.deepEqual(places({ env: { ORION_LVM_CONTROL: '' } }), []);
  assert.deepEqual(places({ config: { control: '/x/c.sock' } }), ['/x/c.sock']);
  assert.deepEqual(places({ config: { control: 'c.sock', run_dir: '/x' } }), ['/x/c.sock']);
  assert.deepEqual(places({ config: { control: 'c.sock' } }), ['/run/orion-lvm/c.sock']);
});

/** Roles and export rules as functions: who may run what, and which clients see which exports. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { type Identity, mayRun, NO_ROLES, type Role, roleOf } from '../../src/daemon/access.ts';
import { NO_ACCESS, settleAccess } from '../../src/daemon/access-settings.ts';
import { Accounts } from '../../src/daemon/accounts.ts';
import { exportAccess, type ExportClient, parseNetwork } from '../../src/daemon/export-access.ts';

const OWN_UID = 990;

function person(uid: number, groups: readonly number[] = []): Identity {
  return { uid, gid: uid, groups };
}

describe('roles', () => {
  test('without settings, root and the daemon itself administrate and nobody else is anything', () => {
    assert.equal(roleOf(person(0), NO_ROLES, OWN_UID), 'administrator');
    assert.equal(roleOf(person(OWN_UID), NO_ROLES, OWN_UID), 'administrator');
    assert.equal(roleOf(person(1000, [0, OWN_UID]), NO_ROLES, OWN_UID), null);
  });

  test('users, groups and supplementary groups; the strongest role counts', () => {
    const roles = {
      observer: [{ kind: 'group', gid: 50 }],
      operator: [{ kind: 'user', uid: 1001 }],
      administrator: [{ kind: 'group', gid: 60 }],
    } as const;
    const cases: readonly (readonly [Identity, Role | null])[] = [
      [person(1000, [50]), 'observer'],
      [{ uid: 1000, gid: 50, groups: [] }, 'observer'],
      [person(1001, [50]), 'operator'],
      [person(1001, [50, 60]), 'administrator'],
      [person(1002, [51]), null],
    ];
    for (const [who, role] of cases) assert.equal(roleOf(who, roles, OWN_UID), role, JSON.stringify(who));
  });

  const lines: readonly (readonly [Role, string])[] = [
    ['observer', 'lvs -o+devices vg0'],
    ['observer', 'pvscan'],
    ['observer', 'vgs --units b --reportformat json'],
    ['observer', 'lvs --configreport vg -o vg_name'],
    ['observer', 'status --reportformat json'],
    ['administrator', 'pvscan --cache'],
    ['administrator', 'pvscan --listvg --checkcomplete --vgonline /dev/sda'],
    ['administrator', 'vgck --updatemeta vg0'],
    ['observer', 'lvs --nolocking'],
    ['administrator', 'lvcreate --nolock -n a -L 1G vg0'],
    ['administrator', 'lvcreate -n a -L 1G vg0 --no-locking'],
    ['administrator', 'pvck --dump headers /dev/sda'],
    ['operator', 'lvcreate -n a -L 1G vg0'],
    ['operator', 'lvcreate -s -n snap vg0/a'],
    ['operator', 'lvextend -r -L+1G vg0/a'],
    ['operator', 'lvresize -L+1G vg0/a'],
    ['operator', 'lvresize --size +1G vg0/a'],
    ['operator', 'lvresize --ext=+100%FREE vg0/a'],
    ['administrator', 'lvresize -L 1G vg0/a'],
    ['administrator', 'lvresize -L-1G vg0/a'],
    ['administrator', 'lvresize -L+1G -l-5 vg0/a'],
    ['administrator', 'lvresize -rL-1G --size +1G vg0/a'],
    ['administrator', 'lvresize --s -1G vg0/a'],
    ['administrator', 'lvresize vg0/a'],
    ['operator', 'lvrename vg0 a b'],
    ['operator', 'lvchange -an vg0/a'],
    ['operator', 'vgchange -ay vg0'],
    ['operator', 'vgchange -a n vg0'],
    ['operator', 'vgchange --activate=y -K --refresh vg0'],
    ['administrator', 'vgchange --addtag x vg0'],
    ['administrator', 'vgchange -ay --autoactivation n vg0'],
    ['administrator', 'vgchange -yl5 vg0'],
    ['administrator', 'lvremove vg0/a'],
    ['administrator', 'lvreduce -L-1G vg0/a'],
    ['administrator', 'vgreduce vg0 /dev/sdb'],
    ['administrator', 'pvcreate /dev/sdb'],
    ['administrator', 'frobnicate'],
    // Options that name files and settings, in every spelling that the parser takes.
    ['administrator', 'lvs --config devices/scan="/dev"'],
    ['administrator', 'lvs --conf=x'],
    ['administrator', 'lvs --con-fig x'],
    ['administrator', 'lvs -o name --config x'],
    ['administrator', 'lvcreate -n -- --config x'],
    ['administrator', 'lvcreate --metadatapro x -L1G vg0'],
    ['administrator', 'lvs --devicesf x'],
    ['administrator', 'lvs --devices /etc/shadow'],
    ['administrator', 'lvs --devices /dev/sda,/etc/shadow'],
    ['observer', 'lvs --devices /dev/sda,/dev/sdb'],
    ['administrator', 'vgcfgbackup -f /etc/passwd vg0'],
    ['administrator', 'vgcfgbackup -vf/etc/passwd vg0'],
    ['operator', 'vgcfgbackup vg0'],
    ['administrator', 'lvmconfig --file /etc/passwd'],
  ];
  const rank = ['observer', 'operator', 'administrator'] as const;
  for (const [needed, line] of lines) {
    test(`${needed}: ${line}`, () => {
      const [name = '', ...argv] = line.split(' ');
      const held = new Set(['/dev/sda', '/dev/sdb']);
      for (const role of rank) {
        const permission = mayRun(role, name, argv, held);
        assert.equal(permission.allowed, rank.indexOf(role) >= rank.indexOf(needed), role);
        if (!permission.allowed)
          assert.match(permission.reason, new RegExp(`needs the role ${needed}, yours is ${role}`));
      }
      assert.equal(mayRun(null, name, argv, held).allowed, false);
    });
  }
});

describe('[access]', () => {
  const folder = mkdtempSync(join(tmpdir(), 'orion-lvm-access-'));
  const passwd = join(folder, 'passwd');
  const group = join(folder, 'group');
  writeFileSync(passwd, 'root:x:0:0::/root:/bin/sh\nalice:x:1001:1001::/:/bin/sh\n# comment\n\nodd line\n');
  writeFileSync(group, 'root:x:0:\nalice:x:1001:\nkvm:x:36:qemu,alice\n');
  const accounts = new Accounts({ passwd, group });
  rmSync(folder, { recursive: true });

  test('names are looked up, numbers are taken as they are, unknown names are problems', () => {
    const problems: string[] = [];
    const { roles, exports } = settleAccess(
      {
        observers: ['user:alice', 'group:kvm', 'user:77'],
        operators: ['user:bob'],
        administrators: ['group:wheel'],
        exports: [{ volumes: ['*'], allow: ['net:10.0.0.0/8', 'any'], allow_read_only: ['net:10.0.0.0/33'] }],
      },
      () => accounts,
      problems,
    );
    assert.deepEqual(roles.observer, [
      { kind: 'user', uid: 1001 },
      { kind: 'group', gid: 36 },
      { kind: 'user', uid: 77 },
    ]);
    assert.deepEqual(
      exports[0]?.allow.map(({ kind }) => kind),
      ['net', 'any'],
    );
    assert.deepEqual(problems, [
      'access.operators: "user:bob" is not allowed: this host has no user bob',
      'access.administrators: "group:wheel" is not allowed: this host has no group wheel',
      'access.exports.allow_read_only: "net:10.0.0.0/33" is not allowed: it must be "net:" with 10.0.0.0/8 or 2001:db8::/32',
    ]);
    assert.deepEqual([...accounts.groupsOf(1001)], [1001, 36]);
    assert.equal(accounts.userName(1001), 'alice');
  });
});

function unix(uid: number, groups: readonly number[] = []): ExportClient {
  return { kind: 'unix', uid, gid: uid, groups };
}

function tcp(address: string): ExportClient {
  return { kind: 'tcp', address };
}

describe('export rules', () => {
  const problems: string[] = [];
  const { exports: rules } = settleAccess(
    {
      observers: [],
      operators: [],
      administrators: [],
      exports: [
        { volumes: ['vg0/secret'], allow: ['user:0'], allow_read_only: [] },
        {
          volumes: ['vg0'],
          allow: ['user:1001', 'net:192.168.1.0/24'],
          allow_read_only: ['group:36', 'net:2001:db8::/32', 'net:10.1.2.3'],
        },
        { volumes: ['*'], allow: ['unix'], allow_read_only: [] },
      ],
    },
    () => new Accounts({ passwd: '/nonexistent', group: '/nonexistent' }),
    problems,
  );
  assert.deepEqual(problems, []);
  const cases: readonly (readonly [string, ExportClient, string])[] = [
    ['vg0/a', unix(1001), 'write'],
    ['vg0/a', unix(1002, [36]), 'read'],
    ['vg0/a', unix(1002), 'none'],
    ['vg0/a', unix(0), 'none'],
    ['vg0/secret', unix(0), 'write'],
    ['vg0/secret', unix(1001), 'none'],
    ['vg0/a', tcp('192.168.1.77'), 'write'],
    ['vg0/a', tcp('::ffff:192.168.1.77'), 'write'],
    ['vg0/a', tcp('192.168.2.77'), 'none'],
    ['vg0/a', tcp('2001:db8::7'), 'read'],
    ['vg0/a', tcp('2001:db9::7'), 'none'],
    ['vg0/a', tcp('10.1.2.3'), 'read'],
    ['vg0/a', tcp('10.1.2.4'), 'none'],
    ['vg0/a', { kind: 'unknown' }, 'none'],
    ['vg00/a', unix(1002), 'write'],
    ['vg1/a', tcp('192.168.1.77'), 'none'],
  ];
  for (const [name, client, access] of cases) {
    test(`${name} for ${JSON.stringify(client)}: ${access}`, () => {
      assert.equal(exportAccess(rules, name, client), access);
    });
  }

  test('a volume that no rule names is open', () => {
    assert.equal(exportAccess(NO_ACCESS.exports, 'vg0/a', { kind: 'unknown' }), 'write');
    assert.equal(exportAccess(rules.slice(0, 2), 'vg1/a', tcp('1.2.3.4')), 'write');
  });

  test('a link-local address has an interface, a network has not', () => {
    assert.equal(
      exportAccess(
        [
          {
            volumes: ['*'],
            allow: [{ kind: 'net', text: '', networks: parseNetwork('fe80::/10')! }],
            allowReadOnly: [],
          },
        ],
        'a/b',
        tcp('fe80::1%eth0'),
      ),
      'write',
    );
    for (const text of ['10.0.0.0/8/8', '10.0.0/8', '::/129', 'fe80::1%eth0', '', '1.2.3.4/-1', '1.2.3.4/'])
      assert.equal(parseNetwork(text), null, text);
  });
});

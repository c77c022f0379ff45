/**
 * Every command by its name, loaded when it is run: start-up time is the user's.
 *
 * Invariant: the names are LVM2's (and `attach`, `audit`, `backup`, `completion`, `config`, `detach`, `man`, `rescan`, `restore`, `status`, `tls` and `top`, which are ours), in alphabetical order; bin/ has each of them but those that
 * LVM2 has only as `lvm NAME`.
 */
import type { Command } from '../command.ts';

export interface Entry {
  readonly summary: string;
  /** Only as `orion-lvm NAME`: not in bin/. */
  readonly inner?: true;
  /** Has to do with no volumes, or talks to the daemon by itself: never handed over to it. */
  readonly local?: true;
  /** Root can do it himself, whatever becomes of the daemon meanwhile; others ask the daemon. */
  readonly rootIsLocal?: true;
  load(): Promise<{ readonly command: Command }>;
}

/** A command of facts.ts. */
function fact(name: 'formats' | 'segtypes' | 'systemid' | 'tags' | 'version', summary: string): [string, Entry] {
  return [
    name,
    { summary, inner: true, local: true, load: async () => ({ command: (await import('./facts.ts'))[name] }) },
  ];
}

export const COMMANDS: ReadonlyMap<string, Entry> = new Map<string, Entry>([
  [
    'attach',
    {
      summary: 'Attach a logical volume to a kernel block device',
      rootIsLocal: true,
      inner: true,
      load: () => import('./attach.ts'),
    },
  ],
  ['audit', { summary: 'Verify or show the audit log', local: true, inner: true, load: () => import('./audit.ts') }],
  [
    'backup',
    {
      summary: 'Back up a logical volume, or what changed since a snapshot',
      local: true,
      inner: true,
      load: () => import('./backup.ts'),
    },
  ],
  [
    'completion',
    {
      summary: 'Print the completion script for bash',
      local: true,
      inner: true,
      load: () => import('./completion.ts'),
    },
  ],
  [
    'config',
    { summary: 'Display configuration information', local: true, inner: true, load: () => import('./config.ts') },
  ],
  [
    'detach',
    {
      summary: 'Detach a logical volume from its kernel block device',
      rootIsLocal: true,
      inner: true,
      load: () => import('./detach.ts'),
    },
  ],
  [
    'devtypes',
    {
      summary: 'Display recognised built-in block device types',
      local: true,
      inner: true,
      load: () => import('./devtypes.ts'),
    },
  ],
  [
    'dumpconfig',
    {
      summary: 'Display and manipulate configuration information',
      local: true,
      inner: true,
      load: () => import('./lvmconfig.ts'),
    },
  ],
  fact('formats', 'List available metadata formats'),
  ['fullreport', { summary: 'Display full report', inner: true, load: () => import('./fullreport.ts') }],
  ['lvchange', { summary: 'Change the attributes of logical volume(s)', load: () => import('./lvchange.ts') }],
  ['lvconvert', { summary: 'Change logical volume layout', load: () => import('./lvconvert.ts') }],
  ['lvcreate', { summary: 'Create a logical volume', load: () => import('./lvcreate.ts') }],
  ['lvdisplay', { summary: 'Display information about a logical volume', load: () => import('./lvdisplay.ts') }],
  ['lvextend', { summary: 'Add space to a logical volume', load: () => import('./lvextend.ts') }],
  [
    'lvmconfig',
    { summary: 'Display and manipulate configuration information', local: true, load: () => import('./lvmconfig.ts') },
  ],
  ['lvmdevices', { summary: 'Manage the devices file', local: true, load: () => import('./lvmdevices.ts') }],
  [
    'lvmdiskscan',
    { summary: 'List devices that may be used as physical volumes', load: () => import('./lvmdiskscan.ts') },
  ],
  [
    'lvpoll',
    {
      summary: 'Continue already initiated poll operation on a logical volume',
      inner: true,
      load: () => import('./lvpoll.ts'),
    },
  ],
  ['lvreduce', { summary: 'Reduce the size of a logical volume', load: () => import('./lvreduce.ts') }],
  ['lvremove', { summary: 'Remove logical volume(s) from the system', load: () => import('./lvremove.ts') }],
  ['lvrename', { summary: 'Rename a logical volume', load: () => import('./lvrename.ts') }],
  ['lvresize', { summary: 'Resize a logical volume', load: () => import('./lvresize.ts') }],
  ['lvs', { summary: 'Display information about logical volumes', load: () => import('./lvs.ts') }],
  ['lvscan', { summary: 'List all logical volumes in all volume groups', load: () => import('./lvscan.ts') }],
  ['man', { summary: 'Print manual pages', local: true, inner: true, load: () => import('./man.ts') }],
  ['pvchange', { summary: 'Change attributes of physical volume(s)', load: () => import('./pvchange.ts') }],
  ['pvck', { summary: 'Check metadata on physical volumes', load: () => import('./pvck.ts') }],
  ['pvcreate', { summary: 'Initialize physical volume(s) for use by LVM', load: () => import('./pvcreate.ts') }],
  ['pvdisplay', { summary: 'Display various attributes of physical volume(s)', load: () => import('./pvdisplay.ts') }],
  ['pvmove', { summary: 'Move extents from one physical volume to another', load: () => import('./pvmove.ts') }],
  ['pvremove', { summary: 'Remove LVM label(s) from physical volume(s)', load: () => import('./pvremove.ts') }],
  ['pvresize', { summary: 'Resize physical volume(s)', load: () => import('./pvresize.ts') }],
  ['pvs', { summary: 'Display information about physical volumes', load: () => import('./pvs.ts') }],
  ['pvscan', { summary: 'List all physical volumes', load: () => import('./pvscan.ts') }],
  ['rescan', { summary: 'Make orion-lvmd look at its devices again', inner: true, load: () => import('./rescan.ts') }],
  [
    'restore',
    {
      summary: 'Restore a logical volume from backups',
      local: true,
      inner: true,
      load: () => import('./restore.ts'),
    },
  ],
  fact('segtypes', 'List available segment types'),
  [
    'status',
    {
      summary: 'Show what the running daemon serves',
      local: true,
      inner: true,
      load: () => import('./status.ts'),
    },
  ],
  fact('systemid', 'Display the system ID, if any, currently set on this host'),
  fact('tags', 'List tags defined on this host'),
  [
    'tls',
    {
      summary: 'Make certificates or keys for NBD over TLS',
      local: true,
      inner: true,
      load: () => import('./tls.ts'),
    },
  ],
  [
    'top',
    {
      summary: 'Show the activity of the running daemon',
      local: true,
      inner: true,
      load: () => import('./top.ts'),
    },
  ],
  fact('version', 'Display software and driver version information'),
  ['vgcfgbackup', { summary: 'Backup volume group configuration(s)', load: () => import('./vgcfgbackup.ts') }],
  ['vgcfgrestore', { summary: 'Restore volume group configuration', load: () => import('./vgcfgrestore.ts') }],
  ['vgchange', { summary: 'Change volume group attributes', load: () => import('./vgchange.ts') }],
  ['vgck', { summary: 'Check the consistency of volume group(s)', load: () => import('./vgck.ts') }],
  ['vgcreate', { summary: 'Create a volume group', load: () => import('./vgcreate.ts') }],
  ['vgdisplay', { summary: 'Display volume group information', load: () => import('./vgdisplay.ts') }],
  ['vgexport', { summary: 'Unregister volume group(s) from the system', load: () => import('./vgexport.ts') }],
  ['vgextend', { summary: 'Add physical volumes to a volume group', load: () => import('./vgextend.ts') }],
  ['vgimport', { summary: 'Register exported volume group with system', load: () => import('./vgimport.ts') }],
  ['vgimportclone', { summary: 'Import a VG from cloned PVs', load: () => import('./vgimportclone.ts') }],
  ['vgmerge', { summary: 'Merge volume groups', load: () => import('./vgmerge.ts') }],
  ['vgreduce', { summary: 'Remove physical volume(s) from a volume group', load: () => import('./vgreduce.ts') }],
  ['vgremove', { summary: 'Remove volume group(s)', load: () => import('./vgremove.ts') }],
  ['vgrename', { summary: 'Rename a volume group', load: () => import('./vgrename.ts') }],
  ['vgs', { summary: 'Display information about volume groups', load: () => import('./vgs.ts') }],
  ['vgscan', { summary: 'Search for all volume groups', load: () => import('./vgscan.ts') }],
  [
    'vgsplit',
    { summary: 'Move physical volumes into a new or existing volume group', load: () => import('./vgsplit.ts') },
  ],
]);

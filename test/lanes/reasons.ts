/** Why tests are left out where a condition is met: what `skipIf(...)` is given, or the contrary of what `runIf(...)` is given. */
export interface Reason {
  readonly text: string
  /** Also where root runs the suite with all tools that it knows: there is nothing to try, or the kernel has it not. */
  readonly always?: true
}

const NO_ROOT = { text: 'it needs root' }
const NO_TRACING = {
  text: 'it may not look into other processes (CAP_SYS_PTRACE, or kernel.yama.ptrace_scope=0)',
}
const NO_MACHINE = {
  text: 'no machine can be booted: it needs root, systemd and systemd-nspawn (npm run unpack-nspawn)',
}

/** By the condition, as the source has it. */
export const REASONS: Readonly<Record<string, Reason>> = {
  'process.geteuid?.() !== 0': NO_ROOT,
  'process.getuid?.() === 0': NO_ROOT,
  'process.geteuid?.() === 0': NO_ROOT,
  isRoot: NO_ROOT,
  ROOT: NO_ROOT,
  TRACES_OWN: NO_TRACING,
  'isRoot && TRACES_ALL': NO_TRACING,
  'why !== null': NO_MACHINE,
  'NIGHTLY && why === null': {
    text: `it is of the nightly lane (npm run nightly), and needs a machine that can be booted`,
    always: true,
  },
  'analyzer() === null': { text: 'there is no systemd-analyze' },
  "spawnSync('systemd-analyze', ['--version']).status !== 0": { text: 'there is no systemd-analyze' },
  "existsSync('/proc/self/io')": { text: 'this kernel does not count what a process reads' },
  'mayOverlay()': { text: 'an overlay may not be mounted' },
  "process.geteuid?.() !== 0 || readFileSync('/proc/sys/fs/protected_hardlinks', 'latin1').trim() !== '1'": {
    text: 'it needs root and fs.protected_hardlinks=1',
  },
  "!has('python3')": { text: 'there is no python3' },
  "process.getuid?.() !== 0 || !has('unshare') || !has('python3')": {
    text: 'it needs root, unshare and python3',
  },
  'MYPY === null': { text: 'there is no mypy (the nightly lane installs it)' },
  'PARSER === null': { text: 'there is no prometheus_client for Python (the nightly lane installs it)' },
  "NIGHTLY && has('python3')": {
    text: 'it is of the nightly lane (npm run nightly), and needs python3',
    always: true,
  },
  '!has(runtime)': { text: 'this runtime of JavaScript is not in PATH', always: true },
  "NIGHTLY && has('chromium')": {
    text: 'it is of the nightly lane (npm run nightly), and needs chromium',
    always: true,
  },
  "!has('curl')": { text: 'there is no curl' },
  '!mayRun': { text: 'it needs root, ip (iproute2) and ansible-playbook' },
  "!has('etcd')": { text: 'there is no etcd' },
  'FETCH < 8': { text: 'fetch() of this Node has no HTTP/2 (Node 26 has)', always: true },
  "!has('nginx')": { text: 'there is no nginx' },
  "!has('haproxy')": { text: 'there is no HAProxy' },
  "!has('certbot') || !has('pebble')": {
    text: 'there is no certbot, or no pebble (go install github.com/letsencrypt/pebble/v2/cmd/pebble@latest)',
  },
  "!has('lego') || !has('pebble')": {
    text: 'there is no lego, or no pebble (go install github.com/letsencrypt/pebble/v2/cmd/pebble@latest)',
  },
  "!has('h2load')": { text: 'there is no h2load' },
  "!has('h2spec')": {
    text: 'there is no h2spec (go install github.com/summerwind/h2spec/cmd/h2spec@v2.2.1)',
  },
  "!has('chromium')": { text: 'there is no Chromium' },
  "!has('go')": { text: 'there is no Go toolchain' },
  'AIOQUIC === null': { text: 'there is no aioquic for Python (the nightly lane installs it)' },
  '!has(tool)': { text: 'the toolchain of this language is not there' },
  'there.length === 0': { text: 'there is neither python3 nor a Go toolchain' },
  "NIGHTLY && hasDpkg && architecture !== ''": {
    text: 'it is of the nightly lane (npm run nightly), and needs dpkg',
    always: true,
  },
  '!hasDpkg': { text: 'there is no dpkg' },
  "process.platform === 'linux'": { text: 'it is about Linux' },
  supported: { text: 'this system has no epoll' },
  '!KNOWN': { text: 'this kernel has no vm.memfd_noexec (Linux 6.3)', always: true },
  FRESH: { text: 'CI plays fixed seeds only', always: true },
  NIGHTLY: { text: 'it is of the nightly lane (npm run nightly)', always: true },
  "NIGHTLY || hosting === 'embedded'": {
    text: 'under a daemon it is of the nightly lane (npm run nightly); the gate has it embedded',
    always: true,
  },
  "NIGHTLY || hosting === 'daemon'": {
    text: 'embedded it is of the nightly lane (npm run nightly); the gate has it under a daemon',
    always: true,
  },
  "NIGHTLY || language === 'python'": {
    text: 'in Go it is of the nightly lane (npm run nightly); the gate has it in Python',
    always: true,
  },
  'NIGHTLY || !upgraded': {
    text: 'of a daemon that is upgraded it is of the nightly lane (npm run nightly); the gate has it of one that is killed',
    always: true,
  },
  'NIGHTLY || upgraded': {
    text: 'of a daemon that is killed it is of the nightly lane (npm run nightly); the gate has it of one that is upgraded',
    always: true,
  },
  takesAny: { text: 'this kind of connection goes on with any descriptor', always: true },
  'ASKED === undefined': { text: 'a soak asks for it: npm run soak -- containers', always: true },
}

/** Tests that say themselves that they are left out, by `skip(note)`: these notes are met by root with all tools too. */
export const NOTES_OF_ROOT: readonly string[] = [
  'no perl, or a kernel before 6.16',
  'this systemd-notify has no --fd',
  'there is no python3 that every user has',
]

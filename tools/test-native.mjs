// Searches the addon for memory errors: `node tools/test-native.mjs [--asan | --valgrind]` (default: both).
//
//   --asan      runs the tests of test/native, test/native/exercise.mjs, and conversations of another user with a daemon, with the sanitizer build (gcc's
//               ASan and UBSan)
//   --valgrind  runs test/native/exercise.mjs with the normal build, and also searches for leaks
//
// Ignores findings without a frame of the addon in their stack: Node and V8 have some of their own.
import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const wanted = ['asan', 'valgrind'].filter(name => process.argv.includes(`--${name}`))
const logs = mkdtempSync(join(tmpdir(), 'fdb-native-'))
const exercise = join(root, 'test', 'native', 'exercise.mjs')
const fuzzer = join('test', 'e2e', 'second-user-fuzz.test.ts')
const vitest = join(root, 'node_modules', 'vitest', 'vitest.mjs')
let failures = 0

function print(text) {
  process.stdout.write(`test-native: ${text}\n`)
}

function fail(text, more = '') {
  failures++
  process.stderr.write(`test-native: ${text}\n${more}`)
}

function run(command, args, env = {}) {
  const started = Date.now()
  const result = spawnSync(command, args, {
    cwd: root,
    encoding: 'utf8',
    maxBuffer: 64 << 20,
    timeout: 900_000,
    killSignal: 'SIGKILL',
    env: { ...process.env, ...env },
  })
  const seconds = Math.round((Date.now() - started) / 1000)
  const how = result.error?.message ?? result.signal ?? result.status
  return { ok: result.status === 0, how, seconds, text: `${result.stdout ?? ''}${result.stderr ?? ''}` }
}

function build(...options) {
  const built = run(process.execPath, [join(root, 'tools', 'build-native.mjs'), ...options])
  if (built.ok) return true
  fail('the build failed', built.text)
  return false
}

/** Returns the reports in a folder; each process with findings has written one. */
function reports(folder) {
  return readdirSync(folder).map(name => readFileSync(join(folder, name), 'utf8'))
}

function underSanitizers() {
  if (!build('--asan')) return
  const found = run('gcc', ['-print-file-name=libasan.so']).text.trim()
  if (!found.startsWith('/')) return fail('gcc has no libasan.so: install it (libasan8, libgcc-*-dev)')
  const folder = join(logs, 'asan')
  mkdirSync(folder)
  const env = {
    FD_BROKER_ADDON: join(root, 'build', 'asan', 'build', 'Release', 'fd_broker.node'),
    LD_PRELOAD: found,
    // Node does not free all its memory at exit. Valgrind searches for leaks, because its frames show which leaks are the addon's.
    ASAN_OPTIONS: `detect_leaks=0:abort_on_error=1:log_path=${join(folder, 'report')}`,
    UBSAN_OPTIONS: `halt_on_error=1:print_stacktrace=1:log_path=${join(folder, 'report')}`,
  }
  const runs = [
    ['exercise', run(process.execPath, ['--expose-gc', exercise], env)],
    ['tests', run(process.execPath, [vitest, 'run', '--config', 'test/native/vitest.config.ts'], env)],
    ['conversations of another user', run(process.execPath, [vitest, 'run', fuzzer], env)],
  ]
  const texts = reports(folder)
  for (const [name, result] of runs) {
    if (result.ok) print(`sanitizers: ${name} clean (${result.seconds} s)`)
    else fail(`sanitizers: ${name} ended with ${result.how}`, result.text)
  }
  for (const text of texts) {
    if (text.includes('fd_broker')) fail('sanitizers: a finding in the addon', text)
  }
}

/**
 * Returns the `<error>` blocks of valgrind's XML that have a frame of the addon. Leaves out the metadata of V8's heap pages: V8 frees it with
 * the page, but hides its pointer, so that valgrind reports a leak.
 */
function addonErrors(xml) {
  return xml
    .split('<error>')
    .slice(1)
    .map(block => block.split('</error>')[0])
    .filter(block => block.includes('fd_broker') && !isLeakOfTheHeap(block) && !isLeakOfAnExternal(block))
}

/** Returns the frame that called the allocator for a leaked block; '' for other findings. */
function allocatorOf(block) {
  if (!block.includes('<kind>Leak_')) return ''
  const frames = block.split('<frame>').slice(1)
  return frames.find(frame => !frame.includes('vgpreload') && !/<fn>(void )?std::/.test(frame)) ?? ''
}

function isLeakOfTheHeap(block) {
  return /<fn>v8::internal::(Heap|MemoryChunk|CodeObjectRegistry)(_|::)/.test(allocatorOf(block))
}

/** Node's own 40 bytes for an external value: Node frees them when the value is collected, but not when the environment ends before. The addon's memory behind the value is freed in both cases. */
function isLeakOfAnExternal(block) {
  return allocatorOf(block).includes('<fn>napi_create_external</fn>')
}

/**
 * Leaves out what valgrind cannot run; the sanitizers do: guardians (native/spawn.c) give back memory that valgrind has in their process too, and the
 * thread that starts processes (native/starter.c) closes descriptors of valgrind. Valgrind cannot run native/waiting.c either, which executes the
 * program /proc/self/exe: there that is valgrind itself.
 */
function underValgrind() {
  if (!build()) return
  if (!run('valgrind', ['--version']).ok) return fail('valgrind is not installed')
  const folder = join(logs, 'valgrind')
  mkdirSync(folder)
  const result = run(
    'valgrind',
    [
      '--leak-check=full',
      '--show-leak-kinds=definite,indirect',
      '--num-callers=30',
      '--xml=yes',
      `--xml-file=${join(folder, 'report.%p')}`,
      process.execPath,
      '--expose-gc',
      exercise,
    ],
    { FD_BROKER_VALGRIND: '1' },
  )
  if (!result.ok) return fail(`valgrind: exercise ended with ${result.how}`, result.text)
  const texts = reports(folder)
  const loaded = texts.some(text => text.includes('</valgrindoutput>'))
  if (!loaded) return fail('valgrind: no complete report', result.text)
  const findings = texts.flatMap(addonErrors)
  for (const finding of findings) fail('valgrind: a finding in the addon', `${finding}\n`)
  if (findings.length === 0) print(`valgrind: exercise clean (${result.seconds} s)`)
}

try {
  if (wanted.length === 0 || wanted.includes('asan')) underSanitizers()
  if (wanted.length === 0 || wanted.includes('valgrind')) underValgrind()
} finally {
  rmSync(logs, { recursive: true, force: true })
}
process.exitCode = failures === 0 ? 0 : 1

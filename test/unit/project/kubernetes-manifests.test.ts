import { spawnSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { parseAllDocuments } from 'yaml'
import { parseConfig } from '../../../src/proxy/config/load.js'

const ROOT = new URL('../../../', import.meta.url)
const FOLDER = new URL('docs/examples/kubernetes/', ROOT)
const CLI = fileURLToPath(new URL('dist/cli.cjs', ROOT))

// biome-ignore lint/suspicious/noExplicitAny: as it is written
type Document = any

/** The fields that there are, of those that the manifests have; `*`: names of one's own. */
const WORKLOAD_META = { name: 1, labels: { '*': 1 } }
const CONTAINER = {
  name: 1,
  image: 1,
  command: 1,
  args: 1,
  ports: { name: 1, containerPort: 1 },
  readinessProbe: {
    exec: { command: 1 },
    httpGet: { path: 1, port: 1 },
    periodSeconds: 1,
    failureThreshold: 1,
  },
  lifecycle: { preStop: { exec: { command: 1 } } },
  securityContext: {
    runAsUser: 1,
    runAsGroup: 1,
    allowPrivilegeEscalation: 1,
    capabilities: { drop: 1 },
  },
  volumeMounts: { name: 1, mountPath: 1, readOnly: 1 },
}
const POD = {
  metadata: { labels: { '*': 1 } },
  spec: {
    hostNetwork: 1,
    dnsPolicy: 1,
    terminationGracePeriodSeconds: 1,
    initContainers: CONTAINER,
    containers: CONTAINER,
    volumes: { name: 1, hostPath: { path: 1, type: 1 }, configMap: { name: 1 } },
  },
}
const KINDS: Record<string, object> = {
  'v1 ConfigMap': { metadata: WORKLOAD_META, data: { '*': 1 } },
  'apps/v1 DaemonSet': {
    metadata: WORKLOAD_META,
    spec: {
      selector: { matchLabels: { '*': 1 } },
      minReadySeconds: 1,
      updateStrategy: { type: 1, rollingUpdate: { maxSurge: 1, maxUnavailable: 1 } },
      template: POD,
    },
  },
  'apps/v1 Deployment': {
    metadata: WORKLOAD_META,
    spec: { replicas: 1, selector: { matchLabels: { '*': 1 } }, template: POD },
  },
}

/** Fields that are not in the schema, by path. */
function unknown(value: unknown, schema: Document, path = ''): string[] {
  if (schema === 1 || value === null || typeof value !== 'object') return []
  if (Array.isArray(value)) return value.flatMap((item, i) => unknown(item, schema, `${path}[${i}]`))
  return Object.entries(value).flatMap(([key, below]) => {
    const known = schema[key] ?? schema['*']
    return known === undefined ? [`${path}.${key}`] : unknown(below, known, `${path}.${key}`)
  })
}

const files = readdirSync(FOLDER)
const read = (name: string): Document[] =>
  parseAllDocuments(readFileSync(new URL(name, FOLDER), 'utf8')).map(document => {
    expect(document.errors).toEqual([])
    return document.toJS()
  })
const workloadOf = (documents: Document[]) => documents.find(({ spec }) => spec !== undefined)
const podOf = (documents: Document[]) => workloadOf(documents).spec.template.spec
const wordAfter = (words: string[], flag: string) => words[words.indexOf(flag) + 1]!

/** Options in the command's own help. */
function optionsOf(command: string): string[] {
  const { stdout, status } = spawnSync(process.execPath, [CLI, command, '--help'], { encoding: 'utf8' })
  expect(status).toBe(0)
  return stdout.match(/--[a-z-]+/g) ?? []
}

describe.each(files)('docs/examples/kubernetes/%s', name => {
  const documents = read(name)

  it('has fields that Kubernetes knows, and labels that its selector finds', () => {
    for (const { apiVersion, kind, ...rest } of documents)
      expect(unknown(rest, KINDS[`${apiVersion} ${kind}`])).toEqual([])
    const { spec } = workloadOf(documents)
    expect(spec.template.metadata.labels).toEqual(spec.selector.matchLabels)
  })

  it('runs a command that there is, with options that it has, on files that are mounted', () => {
    const { containers, initContainers = [], volumes } = podOf(documents)
    const { args, volumeMounts } = containers[0]
    const [command] = args
    const own: string[] = args.slice(1, args.includes('--') ? args.indexOf('--') : undefined)
    const known = optionsOf(command)
    expect(own.filter(word => word.startsWith('--') && !known.includes(word))).toEqual([])
    for (const mount of [...volumeMounts, ...initContainers.flatMap((one: Document) => one.volumeMounts)])
      expect(volumes.map((volume: Document) => volume.name)).toContain(mount.name)
    // Each file that a ConfigMap brings is where the command looks for it.
    const { data } = documents.find(({ kind }) => kind === 'ConfigMap')
    const brought = volumes.flatMap(({ name, configMap }: Document) => {
      const at = volumeMounts.find((mount: Document) => mount.name === name).mountPath
      return configMap ? Object.keys(data).map(file => `${at}/${file}`) : []
    })
    for (const file of brought) expect(args).toContain(file)
    const names = documents.filter(({ kind }) => kind === 'ConfigMap').map(({ metadata }) => metadata.name)
    for (const { configMap } of volumes) if (configMap) expect(names).toContain(configMap.name)
  })

  it('has the image’s user, and leaves its version to who builds it', () => {
    const { containers, initContainers = [] } = podOf(documents)
    const user = /^USER (\d+):(\d+)$/m.exec(
      readFileSync(new URL('docs/examples/image/Dockerfile', ROOT), 'utf8'),
    )!
    const { runAsUser, runAsGroup } = containers[0].securityContext
    expect([runAsUser, runAsGroup]).toEqual([Number(user[1]), Number(user[2])])
    for (const { image } of [...containers, ...initContainers]) expect(image).toBe('fd-broker:VERSION')
  })
})

describe('the DaemonSet', () => {
  const documents = read('edge.yaml')
  const { spec } = workloadOf(documents)
  const pod = podOf(documents)
  const config = parseConfig(documents[0].data['edge.yaml'], 'edge.yaml')
  const [{ args, lifecycle, ports, readinessProbe, volumeMounts, livenessProbe }] = pod.containers

  it('starts the new pod first, on the same network, and no probe or port is in its way', () => {
    expect(spec.updateStrategy.rollingUpdate).toEqual({ maxSurge: 1, maxUnavailable: 0 })
    expect([pod.hostNetwork, ports, livenessProbe]).toEqual([true, undefined, undefined])
    expect(readinessProbe.exec.command).toEqual(['test', '-s', wordAfter(args, '--pid-file')])
    expect(args).toContain('--stay')
  })

  it('has its control socket where all pods of the node have theirs, and times that come in their order', () => {
    const control = volumeMounts.find(({ mountPath }: Document) =>
      config.control?.startsWith(`${mountPath}/`),
    )
    expect(pod.volumes.find(({ name }: Document) => name === control.name).hostPath.type).toBe(
      'DirectoryOrCreate',
    )
    expect(pod.initContainers[0].volumeMounts).toEqual([control])
    expect(pod.initContainers[0].command.at(-1)).toContain(control.mountPath)
    expect(spec.minReadySeconds * 1_000).toBeGreaterThan(config.upgrade.probation)
    const [, seconds] = lifecycle.preStop.exec.command
    const grace = pod.terminationGracePeriodSeconds * 1_000
    expect(grace).toBeGreaterThan(Number(seconds) * 1_000 + config.drain.timeout)
  })
})

it('the Deployment leaves the program the time that run leaves it', () => {
  const pod = podOf(read('shop.yaml'))
  const { args, lifecycle } = pod.containers[0]
  const stop = Number(/^(\d+)s$/.exec(wordAfter(args, '--stop-timeout'))![1]) * 1_000
  const [, seconds] = lifecycle.preStop.exec.command
  expect(pod.terminationGracePeriodSeconds * 1_000).toBeGreaterThan(Number(seconds) * 1_000 + stop)
})

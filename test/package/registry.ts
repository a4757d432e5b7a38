import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import http from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Tarball } from './tarball.js'

/** A registry on loopback that has one package, as if it were published, and passes all other questions on. */
export interface Registry extends AsyncDisposable {
  readonly url: string
}

/** `elsewhere` is the registry that npm is configured with: who asks for another package is sent there. */
export async function startRegistry(tarball: Tarball, elsewhere: string): Promise<Registry> {
  const { manifest } = tarball
  const bytes = readFileSync(tarball.path)
  const server = http.createServer((request, response) => {
    const path = request.url ?? '/'
    if (path === `/${manifest.name}`)
      response.setHeader('content-type', 'application/json').end(JSON.stringify(packument()))
    else if (path === tarballPath) response.end(bytes)
    else response.writeHead(302, { location: new URL(path.slice(1), elsewhere).href }).end()
  })
  const tarballPath = `/${manifest.name}/-/${manifest.name}-${manifest.version}.tgz`
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`

  function packument() {
    const { scripts = {} } = manifest
    const installs = ['preinstall', 'install', 'postinstall'].some(script => script in scripts)
    const dist = {
      tarball: new URL(tarballPath, url).href,
      integrity: `sha512-${createHash('sha512').update(bytes).digest('base64')}`,
      shasum: createHash('sha1').update(bytes).digest('hex'),
    }
    const version = { ...manifest, _id: `${manifest.name}@${manifest.version}`, dist }
    return {
      name: manifest.name,
      'dist-tags': { latest: manifest.version },
      versions: { [manifest.version]: installs ? { ...version, hasInstallScript: true } : version },
      time: { [manifest.version]: new Date(0).toISOString() },
    }
  }

  return {
    url,
    [Symbol.asyncDispose]: async () => {
      server.closeAllConnections()
      await new Promise(resolve => server.close(resolve))
    },
  }
}

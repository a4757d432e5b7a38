// CommonJS that requires it: Node 20.19 and newer load a module so.
import fdBroker = require('fd-broker')
import errors = require('fd-broker/errors')

async function start(control: string): Promise<fdBroker.Member> {
  try {
    return await fdBroker.join({ service: 'shop', control })
  } catch (error) {
    if (errors.FdbError.is(error)) console.error(error.code)
    throw error
  }
}

export = start

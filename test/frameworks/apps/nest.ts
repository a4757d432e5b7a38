import { Body, Controller, Get, Module, Param, Post } from '@nestjs/common'
import { NestFactory } from '@nestjs/core'

@Controller()
class ArticlesController {
  @Get()
  pid() {
    return `pid ${process.pid}\n`
  }

  @Get('articles/:id')
  article(@Param('id') id: string) {
    return { id, title: 'A chair' }
  }

  @Post('articles')
  add(@Body() body: { title: string }) {
    return { title: body.title }
  }
}

@Module({ controllers: [ArticlesController] })
class ShopModule {}

async function bootstrap() {
  const app = await NestFactory.create(ShopModule, { logger: ['error', 'warn'] })
  app.enableShutdownHooks()
  await app.listen(8080)
}

void bootstrap()

from __future__ import annotations

import yaml

from include.local.image_catalogue import TARGET, catalogue


def test_catalogue_of_images_is_the_sdks_own() -> None:
    assert yaml.safe_load(TARGET.read_text(encoding="utf-8")) == catalogue()

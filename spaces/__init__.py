"""What may be searched: preset spaces (one YAML file each) and the named shapes of models.yaml."""
